/* plum.h: workers, devices, the key-value store, discovery and tasks of Plum, from C.
 *
 * C99 and POSIX, nothing else: copy plum.h and plum.c into your program. `plum.hpp` is the same for
 * C++. The guide with examples is docs/c-sdk.md.
 *
 * Rules that hold everywhere:
 * - Handles are opaque; who makes one with plum_X_new frees it with plum_X_free (NULL is fine).
 * - Functions that can fail return a plum_status; what they make comes out by the last argument.
 * - Texts are UTF-8. A `const char *` argument is copied. What a getter returns belongs to the
 *   handle. A size argument may be PLUM_Z for a text that ends with NUL.
 * - A text that must be there and is NULL, a name that is "", a number out of its bounds: that is
 *   PLUM_E_INVALID, and nothing is done. Handles, and places for what is made, are never NULL.
 * - JSON goes in and comes out as text. Times say their unit in the name: `_ms`.
 * - There are no globals. A thread is started by plum_worker_run alone, and only if asked for.
 * - plum_worker_* and plum_attempt_* may be called from any thread, where nothing else is said. Any
 *   other handle is used by one thread at a time.
 * - Behind a fork a client, and a worker that does not run yet, are the child's own: the client has
 *   another connection, the worker another name unless it was given one. Other handles, and workers
 *   that run, stay with the process that made them; the child does not touch them.
 */
#ifndef PLUM_H
#define PLUM_H

#include <stddef.h>
#include <stdint.h>

#define PLUM_SDK_VERSION "0.1.0"

/* Bounds of the worker protocol, the same as in plumd.sdk.protocol. */
#define PLUM_PROTOCOL_VERSION 1
#define PLUM_ITEMS_MAX 10000
#define PLUM_MESSAGE_BYTES_MAX (32 * 1024 * 1024)
#define PLUM_VALUE_BYTES_MAX (16 * 1024 * 1024)
#define PLUM_CAPACITY_MAX 100000
#define PLUM_ERROR_CHARS_MAX 65536
#define PLUM_PROGRESS_CHARS_MAX 4096
#define PLUM_DEPTH_MAX 200
#define PLUM_LOST "lost"

#define PLUM_Z ((size_t)-1)

#if defined(PLUM_STATIC) || !defined(__GNUC__)
#define PLUM_API
#else
#define PLUM_API __attribute__((visibility("default")))
#endif
#if defined(__GNUC__)
#define PLUM_PRINTF(text, first) __attribute__((format(printf, text, first)))
#else
#define PLUM_PRINTF(text, first)
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ------------------------------------------------------------------ status */

/* What became of a call. Numbers are part of the ABI; new ones are added at the end. */
typedef enum plum_status {
  PLUM_OK = 0,
  PLUM_AGAIN = 1,           /* nothing went wrong, nothing is there yet */
  PLUM_E_INVALID = 2,       /* an argument is wrong */
  PLUM_E_MEMORY = 3,        /* out of memory */
  PLUM_E_STATE = 4,         /* not now: the handle is past that, or not there yet */
  PLUM_E_UNREACHABLE = 5,   /* nobody answers at the address */
  PLUM_E_CLOSED = 6,        /* the connection ended */
  PLUM_E_TIMEOUT = 7,       /* it took too long */
  PLUM_E_PROTOCOL = 8,      /* the peer sent what nobody understands */
  PLUM_E_TOO_LARGE = 9,     /* over a bound (HTTP 413 too) */
  PLUM_E_TLS = 10,          /* no TLS: no transport for https, or its handshake failed */
  PLUM_E_DISK = 11,         /* the directory of kept results cannot be used */
  PLUM_E_NOT_FOUND = 12,    /* HTTP 404 */
  PLUM_E_CONFLICT = 13,     /* HTTP 409: it is in another state */
  PLUM_E_PRECONDITION = 14, /* HTTP 412: it has another version */
  PLUM_E_REJECTED = 15,     /* HTTP 4xx: the request is wrong; see plum_client_problem */
  PLUM_E_DENIED = 16,       /* HTTP 401, 403 */
  PLUM_E_UNAVAILABLE = 17,  /* HTTP 429, 503: later */
  PLUM_E_SERVER = 18,       /* HTTP 5xx */
  PLUM_E_REPLACED = 19,     /* another process took over this worker's or device's id */
  PLUM_E_VERSION = 20,      /* the daemon speaks another version of the protocol */
  PLUM_E_CUT_SHORT = 21     /* the worker ended with attempts that it had to give up */
} plum_status;

/* A sentence about a status, in English; never NULL. */
PLUM_API const char *plum_status_text(plum_status status);
/* PLUM_SDK_VERSION of the library that is linked. */
PLUM_API const char *plum_version(void);

/* ------------------------------------------------------------------ text buffers */

/* A growing text, always ended by NUL once something was added. Zero it to begin ({0}); `failed`
 * says that memory ran out, and then the content is not whole. */
typedef struct plum_buffer {
  char *data;
  size_t size_bytes;
  size_t room_bytes;
  int failed;
} plum_buffer;

PLUM_API void plum_buffer_add(plum_buffer *buffer, const void *data, size_t size_bytes);
PLUM_API void plum_buffer_print(plum_buffer *buffer, const char *format, ...) PLUM_PRINTF(2, 3);
/* The text as a JSON string with its quotes; what is not UTF-8 in it becomes U+FFFD. */
PLUM_API void plum_buffer_add_json(plum_buffer *buffer, const char *text, size_t size_bytes);
PLUM_API void plum_buffer_add_base64(plum_buffer *buffer, const void *data, size_t size_bytes);
PLUM_API void plum_buffer_free(plum_buffer *buffer);
/* Appends the bytes that a base64 text stands for. */
PLUM_API plum_status plum_base64_decode(const char *text, size_t size_bytes, plum_buffer *out);

/* ------------------------------------------------------------------ reading JSON */

typedef enum plum_json_type {
  PLUM_JSON_NONE = 0,
  PLUM_JSON_NULL = 1,
  PLUM_JSON_BOOL = 2,
  PLUM_JSON_NUMBER = 3,
  PLUM_JSON_STRING = 4,
  PLUM_JSON_ARRAY = 5,
  PLUM_JSON_OBJECT = 6
} plum_json_type;

/* A value: a piece of a JSON text that was checked, and that lives as long as that text does. */
typedef struct plum_json {
  const char *text;
  size_t size_bytes;
  plum_json_type type;
} plum_json;

/* Walks over the members of an object or the items of an array. */
typedef struct plum_json_cursor {
  const char *at;
  const char *end;
  int is_object;
} plum_json_cursor;

/* Checks a whole text (syntax, UTF-8, at most PLUM_DEPTH_MAX deep) and gives its value. */
PLUM_API plum_status plum_json_parse(const char *text, size_t size_bytes, plum_json *value);
PLUM_API plum_json_cursor plum_json_walk(plum_json container);
/* 1 and the next member or item, 0 at the end. key: NONE in an array; may be NULL. */
PLUM_API int plum_json_next(plum_json_cursor *cursor, plum_json *key, plum_json *value);
/* The member of that name, a value of type NONE when there is none. */
PLUM_API plum_json plum_json_member(plum_json object, const char *name);
/* Whether a string says this. */
PLUM_API int plum_json_is(plum_json string, const char *text);
/* Appends what a string says, without quotes and escapes; any other value as its text. */
PLUM_API plum_status plum_json_text(plum_json value, plum_buffer *out);
PLUM_API int64_t plum_json_int(plum_json value, int64_t otherwise);
PLUM_API double plum_json_double(plum_json value, double otherwise);
PLUM_API int plum_json_bool(plum_json value, int otherwise);

/* ------------------------------------------------------------------ HTTP/1.1 without sockets */

/* Some bytes of somebody else's. */
typedef struct plum_piece {
  const char *data;
  size_t size_bytes;
} plum_piece;

typedef enum plum_http_event {
  PLUM_HTTP_MORE = 0, /* all was taken in; feed more */
  PLUM_HTTP_HEAD = 1, /* status and headers are there */
  PLUM_HTTP_BODY = 2, /* a piece of the body */
  PLUM_HTTP_END = 3   /* the message is over */
} plum_http_event;

/* Reads the messages of one connection: answers, or with requests=1 requests. */
typedef struct plum_http_reader plum_http_reader;

PLUM_API plum_status plum_http_reader_new(int requests, plum_http_reader **reader);
PLUM_API void plum_http_reader_free(plum_http_reader *reader);
/* Another message begins. no_body: it answers a HEAD. */
PLUM_API void plum_http_reader_begin(plum_http_reader *reader, int no_body);
/* Takes *used_bytes of the data in. A BODY event's piece points into the data. */
PLUM_API plum_status plum_http_reader_feed(plum_http_reader *reader, const char *data,
                                           size_t size_bytes, size_t *used_bytes,
                                           plum_http_event *event, plum_piece *piece);
/* The connection ended: PLUM_OK when that was the end of the message. */
PLUM_API plum_status plum_http_reader_end(plum_http_reader *reader);
PLUM_API int plum_http_reader_status(const plum_http_reader *reader);
PLUM_API const char *plum_http_reader_method(const plum_http_reader *reader);
PLUM_API const char *plum_http_reader_target(const plum_http_reader *reader);
/* A header's value by its name in lower case; NULL when it is not there. */
PLUM_API const char *plum_http_reader_header(const plum_http_reader *reader, const char *name);
/* Whether the connection may carry another message. */
PLUM_API int plum_http_reader_keeps_alive(const plum_http_reader *reader);

/* ------------------------------------------------------------------ WebSocket without sockets */

typedef enum plum_ws_event {
  PLUM_WS_MORE = 0,
  PLUM_WS_TEXT = 1,
  PLUM_WS_BINARY = 2,
  PLUM_WS_CLOSE = 8, /* close_code of the event; 1005 = none was given */
  PLUM_WS_PING = 9,
  PLUM_WS_PONG = 10
} plum_ws_event;

/* Reads the frames that a server sends, and puts messages together. */
typedef struct plum_ws_reader plum_ws_reader;

PLUM_API plum_status plum_ws_reader_new(size_t message_bytes_max, plum_ws_reader **reader);
PLUM_API void plum_ws_reader_free(plum_ws_reader *reader);
/* Takes *used_bytes in. The event's content stays valid until the next call. */
PLUM_API plum_status plum_ws_reader_feed(plum_ws_reader *reader, const char *data,
                                         size_t size_bytes, size_t *used_bytes,
                                         plum_ws_event *event, plum_piece *content,
                                         int *close_code);
/* Appends one masked frame; mask: four random bytes. */
PLUM_API void plum_ws_frame(plum_buffer *out, plum_ws_event kind, const char *data,
                            size_t size_bytes, const unsigned char mask[4]);
/* Appends the upgrade request's head. key: 16 random bytes. more: header lines, or NULL. */
PLUM_API void plum_ws_request(plum_buffer *out, const char *host, const char *path,
                              const unsigned char key[16], const char *more);
/* Whether an answer accepts the upgrade of that key. */
PLUM_API int plum_ws_accepted(const plum_http_reader *reader, const unsigned char key[16]);

/* ------------------------------------------------------------------ server-sent events */

typedef struct plum_sse_reader plum_sse_reader;

typedef struct plum_sse_event {
  const char *name; /* "message" when none was given */
  const char *data;
  const char *id;
} plum_sse_event;

PLUM_API plum_status plum_sse_reader_new(plum_sse_reader **reader);
PLUM_API void plum_sse_reader_free(plum_sse_reader *reader);
/* PLUM_OK: an event; PLUM_AGAIN: all was taken in. It is valid until the next call. */
PLUM_API plum_status plum_sse_reader_feed(plum_sse_reader *reader, const char *data,
                                          size_t size_bytes, size_t *used_bytes,
                                          plum_sse_event *event);

/* ------------------------------------------------------------------ transports */

#define PLUM_READ 1
#define PLUM_WRITE 2

/* How bytes travel. Nothing in it may block but `open`, which may look up the name. */
typedef struct plum_transport {
  void *context;
  /* Begins to connect. */
  plum_status (*open)(void *context, const char *host, const char *port, void **stream);
  /* PLUM_OK once connected (and, with TLS, the handshake is done), PLUM_AGAIN before. */
  plum_status (*connect)(void *stream);
  /* PLUM_AGAIN: nothing now. PLUM_E_CLOSED: the end. */
  plum_status (*read)(void *stream, char *data, size_t room_bytes, size_t *count);
  plum_status (*write)(void *stream, const char *data, size_t size_bytes, size_t *count);
  int (*fd)(void *stream);
  /* PLUM_READ and PLUM_WRITE: what the last PLUM_AGAIN waits for. */
  int (*wants)(void *stream);
  void (*close)(void *stream);
} plum_transport;

/* Plain TCP with TCP_NODELAY; the default for http. */
PLUM_API const plum_transport *plum_posix_transport(void);

/* ------------------------------------------------------------------ workers */

typedef struct plum_worker plum_worker;
typedef struct plum_attempt plum_attempt;

/* Carries out one attempt. It ends the attempt with plum_attempt_finish or _fail, or says
 * plum_attempt_defer and somebody does so later. One that just returns has succeeded with null, or
 * was stopped when it was canceled. */
typedef void (*plum_handler)(plum_attempt *attempt, void *context);

/* level: 0 = trouble, 1 = news. Called by the thread that runs the worker's line. */
typedef void (*plum_log)(void *context, int level, const char *text);

/* url: where the daemon is; NULL = PLUM_SERVER of the environment, CONTROLLER_BASE, else
 * http://127.0.0.1:8080. It is http or https, with a name, an IPv4 or a [bracketed] IPv6 address.
 * What an agent puts into the environment of its processes is the default for names. */
PLUM_API plum_status plum_worker_new(const char *url, plum_worker **worker);
/* Only when it does not run and every deferred attempt has ended. */
PLUM_API void plum_worker_free(plum_worker *worker);

/* Settings, before the first plum_worker_run or _step; PLUM_E_STATE later. */
PLUM_API plum_status plum_worker_set_id(plum_worker *worker, const char *worker_id);
PLUM_API plum_status plum_worker_set_token(plum_worker *worker, const char *token);
PLUM_API plum_status plum_worker_set_capacity(plum_worker *worker, int attempts);
PLUM_API plum_status plum_worker_set_beat_ms(plum_worker *worker, int beat_ms);
PLUM_API plum_status plum_worker_set_drain_timeout_ms(plum_worker *worker, int timeout_ms);
PLUM_API plum_status plum_worker_set_node(plum_worker *worker, const char *node_id);
PLUM_API plum_status plum_worker_set_instance(plum_worker *worker, const char *instance_id);
PLUM_API plum_status plum_worker_set_app(plum_worker *worker, const char *name,
                                         const char *version);
PLUM_API plum_status plum_worker_set_label(plum_worker *worker, const char *name,
                                           const char *value);
/* 1: by long poll, for networks that let no WebSocket through. */
PLUM_API plum_status plum_worker_set_long_poll(plum_worker *worker, int on);
/* Results are kept in this directory too, until the daemon has them; it must be there. One worker a
 * directory: another gets PLUM_E_DISK, and its log says why. */
PLUM_API plum_status plum_worker_set_directory(plum_worker *worker, const char *path);
/* The transport must outlive the worker. */
PLUM_API plum_status plum_worker_set_transport(plum_worker *worker,
                                               const plum_transport *transport);
PLUM_API plum_status plum_worker_set_log(plum_worker *worker, plum_log log, void *context);
/* Called by the line's thread when an attempt shall end. */
PLUM_API plum_status plum_worker_set_on_cancel(plum_worker *worker, plum_handler on_cancel,
                                               void *context);

PLUM_API const char *plum_worker_id(plum_worker *worker);
/* Names may come and go while the worker runs. What a dropped name's handler has in hand is
 * carried out; its context must live until then. PLUM_E_CONFLICT: the name is there; NOT_FOUND:
 * it is not. */
PLUM_API plum_status plum_worker_add_task(plum_worker *worker, const char *name,
                                          plum_handler handler, void *context);
PLUM_API plum_status plum_worker_drop_task(plum_worker *worker, const char *name);

/* Serves until it was drained or stopped. n_threads: so many threads run the handlers; 0 = the
 * caller's thread does, between two looks at the line, which is for handlers that take
 * microseconds. PLUM_OK after a drain that left nothing behind; PLUM_E_CUT_SHORT,
 * PLUM_E_REPLACED, PLUM_E_VERSION, PLUM_E_DISK, PLUM_E_MEMORY. */
PLUM_API plum_status plum_worker_run(plum_worker *worker, int n_threads);

/* Or from a loop of your own, always by the same thread: wait until plum_worker_fd is readable or
 * the time is over, then step. Handlers are called in the step. It answers PLUM_AGAIN while the
 * worker goes on, then what plum_worker_run would; PLUM_E_STATE in a handler. */
PLUM_API plum_status plum_worker_step(plum_worker *worker);
/* A descriptor that is readable when there is something to do (Linux; elsewhere -1). */
PLUM_API int plum_worker_fd(plum_worker *worker);
/* The same for any POSIX: up to two descriptors with PLUM_READ | PLUM_WRITE; ask after each step.
 * */
PLUM_API int plum_worker_fds(plum_worker *worker, int fds[2], int events[2]);
/* Milliseconds from now until plum_worker_step must be called though no descriptor is ready. */
PLUM_API int plum_worker_next_deadline_ms(plum_worker *worker);

/* Take nothing new, finish what runs, hand the results in, and end. From signal handlers too. */
PLUM_API void plum_worker_drain(plum_worker *worker);
/* End now: what runs is given back to the daemon. From signal handlers too. */
PLUM_API void plum_worker_stop(plum_worker *worker);

typedef struct plum_worker_figures {
  int connected;          /* the daemon has taken this worker on the present line */
  uint64_t registrations; /* how often it has */
  uint64_t attempts;      /* taken so far */
  uint64_t results;       /* acknowledged by the daemon so far */
  uint64_t refused;       /* reports that changed nothing */
  uint64_t given_up;      /* attempts cut short by a lost lease or a stop */
  size_t running;         /* with a handler, or waiting for one */
  size_t owed;            /* results that the daemon has not acknowledged */
} plum_worker_figures;

PLUM_API void plum_worker_look(plum_worker *worker, plum_worker_figures *figures);

/* An attempt is valid until its handler has returned; a deferred one until it was ended. */
PLUM_API const char *plum_attempt_id(const plum_attempt *attempt);
PLUM_API const char *plum_attempt_name(const plum_attempt *attempt);
/* JSON text, ended by NUL: `null` when there is none. size_bytes may be NULL. */
PLUM_API const char *plum_attempt_payload(const plum_attempt *attempt, size_t *size_bytes);
/* Which try of its task it is, from 1. */
PLUM_API int plum_attempt_number(const plum_attempt *attempt);
/* 0 = none. */
PLUM_API int64_t plum_attempt_timeout_ms(const plum_attempt *attempt);
/* Whether it shall end, and why: canceled, timeout, stale or lost; "" while it shall not. */
PLUM_API int plum_attempt_canceled(const plum_attempt *attempt);
PLUM_API const char *plum_attempt_cancel_reason(const plum_attempt *attempt);
/* A pointer of yours that travels with it. */
PLUM_API void plum_attempt_set_user(plum_attempt *attempt, void *user);
PLUM_API void *plum_attempt_user(const plum_attempt *attempt);

/* How far it is: ratio 0 .. 1, negative = not known. The latest counts. */
PLUM_API void plum_attempt_progress(plum_attempt *attempt, double ratio, const char *text);
/* A line for the task's log; sent again after a lost line, and shown once. Lines are dropped, and
 * counted, when more than 4 MiB wait for the daemon. */
PLUM_API void plum_attempt_log(plum_attempt *attempt, const char *text, size_t size_bytes);
/* It goes on when the handler has returned; who ends it may be any thread. */
PLUM_API void plum_attempt_defer(plum_attempt *attempt);

/* It succeeded; json: any JSON text (NULL = null). What is no JSON or too deep fails the attempt as
 * `invalid_result`, what is too long as `result_too_large`; both answer PLUM_E_INVALID.
 * PLUM_E_MEMORY: it failed as `out_of_memory`. PLUM_E_STATE: it has ended already. */
PLUM_API plum_status plum_attempt_finish(plum_attempt *attempt, const char *json,
                                         size_t size_bytes);
/* It succeeded with a text; with bytes, which become base64. */
PLUM_API plum_status plum_attempt_finish_text(plum_attempt *attempt, const char *text,
                                              size_t size_bytes);
PLUM_API plum_status plum_attempt_finish_bytes(plum_attempt *attempt, const void *data,
                                               size_t size_bytes);
/* It ended because it was told to. A handler that returns without a word does the same, once
 * plum_attempt_canceled. */
PLUM_API plum_status plum_attempt_stopped(plum_attempt *attempt);
/* It failed. code: for programs. retry=0: another try would end the same way. retry_after_ms:
 * wait at least so long before the next one; negative = as the task says. detail: JSON, or NULL.
 * */
PLUM_API plum_status plum_attempt_fail(plum_attempt *attempt, const char *code,
                                       const char *message, int retry, int64_t retry_after_ms,
                                       const char *detail_json);

/* ------------------------------------------------------------------ a client of the API */

/* One keep-alive connection, one call at a time. */
typedef struct plum_client plum_client;
typedef struct plum_reply plum_reply;

PLUM_API plum_status plum_client_new(const char *url, plum_client **client);
PLUM_API void plum_client_free(plum_client *client);
PLUM_API plum_status plum_client_set_token(plum_client *client, const char *token);
/* How long one call may take, beside what it waits for by its nature; default 10,000. */
PLUM_API plum_status plum_client_set_timeout_ms(plum_client *client, int timeout_ms);
PLUM_API plum_status plum_client_set_transport(plum_client *client,
                                               const plum_transport *transport);

/* What the daemon said of the last call that it refused. Texts are "" when it said nothing. */
typedef struct plum_problem {
  int http_status;
  const char *code;
  const char *detail;
  const char *field;
} plum_problem;

PLUM_API plum_problem plum_client_problem(const plum_client *client);
/* How long the daemon asks to wait before that call is tried again; -1 = it did not say. */
PLUM_API int64_t plum_client_retry_after_ms(const plum_client *client);

/* Any call of the API, for what has no function here. A call that is safe to repeat is repeated
 * once when a connection that had been kept turns out to be closed. more: header lines ended by
 * CRLF. */
PLUM_API plum_status plum_client_call(plum_client *client, const char *method, const char *path,
                                      const char *more, const char *body, size_t size_bytes,
                                      plum_reply **reply);
PLUM_API void plum_reply_free(plum_reply *reply);
PLUM_API int plum_reply_status(const plum_reply *reply);
PLUM_API const char *plum_reply_body(const plum_reply *reply, size_t *size_bytes);
PLUM_API const char *plum_reply_header(const plum_reply *reply, const char *name);
/* The body's value; of type NONE when it is no JSON. */
PLUM_API plum_json plum_reply_json(const plum_reply *reply);

/* ------------------------------------------------------------------ tasks */

typedef enum plum_task_state {
  PLUM_TASK_UNKNOWN = 0,
  PLUM_TASK_QUEUED = 1,
  PLUM_TASK_PENDING = 2,
  PLUM_TASK_RUNNING = 3,
  PLUM_TASK_RETRYING = 4,
  PLUM_TASK_SUCCEEDED = 5,
  PLUM_TASK_FAILED = 6,
  PLUM_TASK_TIMEOUT = 7,
  PLUM_TASK_CANCELED = 8
} plum_task_state;

/* What is asked for. It may be submitted again and again, changed between. */
typedef struct plum_order plum_order;

PLUM_API plum_status plum_order_new(const char *name, plum_order **order);
PLUM_API void plum_order_free(plum_order *order);
PLUM_API plum_status plum_order_set_payload(plum_order *order, const char *json,
                                            size_t size_bytes);
PLUM_API plum_status plum_order_set_priority(plum_order *order, int priority);
PLUM_API plum_status plum_order_set_timeout_ms(plum_order *order, int64_t timeout_ms);
PLUM_API plum_status plum_order_set_queue_timeout_ms(plum_order *order, int64_t timeout_ms);
PLUM_API plum_status plum_order_set_delay_ms(plum_order *order, int64_t delay_ms);
PLUM_API plum_status plum_order_set_retries(plum_order *order, int max_retries);
PLUM_API plum_status plum_order_set_label(plum_order *order, const char *name, const char *value);
/* Any other member of the request, as JSON; NULL takes it out. */
PLUM_API plum_status plum_order_set_json(plum_order *order, const char *name, const char *json);

typedef struct plum_task plum_task;

/* wait_ms > 0: answers at the task's end, or with the task as it is after that time. A lost
 * answer is asked for again under the same Idempotency-Key, so that one call makes one task. */
PLUM_API plum_status plum_task_submit(plum_client *client, const plum_order *order, int wait_ms,
                                      plum_task **task);
PLUM_API plum_status plum_task_get(plum_client *client, const char *task_id, plum_task **task);
/* PLUM_E_TIMEOUT: it goes on; *task shows it as it is then. Waiting goes on through a restart of
 * the daemon; that nobody answers is told when the time is over. */
PLUM_API plum_status plum_task_wait(plum_client *client, const char *task_id, int timeout_ms,
                                    plum_task **task);
PLUM_API plum_status plum_task_cancel(plum_client *client, const char *task_id, int wait_ms,
                                      plum_task **task);
PLUM_API void plum_task_free(plum_task *task);
PLUM_API const char *plum_task_id(const plum_task *task);
PLUM_API plum_task_state plum_task_get_state(const plum_task *task);
PLUM_API int plum_task_is_over(const plum_task *task);
/* JSON text; `null` when there is none. */
PLUM_API const char *plum_task_result(const plum_task *task, size_t *size_bytes);
/* "" when it has not failed. */
PLUM_API const char *plum_task_error_code(const plum_task *task);
PLUM_API const char *plum_task_error_message(const plum_task *task);
/* All that the daemon says of it. */
PLUM_API plum_json plum_task_json(const plum_task *task);

/* Many orders in one request, each accepted or refused by itself. */
typedef struct plum_bulk plum_bulk;

PLUM_API plum_status plum_bulk_new(plum_bulk **bulk);
PLUM_API void plum_bulk_free(plum_bulk *bulk);
PLUM_API plum_status plum_bulk_add(plum_bulk *bulk, const plum_order *order);
PLUM_API plum_status plum_bulk_submit(plum_client *client, plum_bulk *bulk);
/* After the submit. An item has a task id, or an error code ("" else). */
PLUM_API size_t plum_bulk_size(const plum_bulk *bulk);
PLUM_API const char *plum_bulk_task_id(const plum_bulk *bulk, size_t index);
PLUM_API const char *plum_bulk_error_code(const plum_bulk *bulk, size_t index);
/* What was wrong with an order that was refused; http_status 0: nothing. */
PLUM_API plum_problem plum_bulk_problem(const plum_bulk *bulk, size_t index);

/* ------------------------------------------------------------------ key-value store */

#define PLUM_ANY_VERSION (-1) /* whatever is there; version 0 = it must not exist */

/* type: string, int, double, bool or bytes (whose value is base64 text). */
typedef struct plum_kv_entry {
  const char *key;
  const char *value;
  size_t value_bytes;
  const char *type;
  int64_t version;
  int64_t updated_ms;
  int64_t expires_ms; /* 0 = never */
  int deleted;        /* of a watch: it was deleted */
} plum_kv_entry;

typedef struct plum_kv_list plum_kv_list;

PLUM_API void plum_kv_list_free(plum_kv_list *list);
PLUM_API size_t plum_kv_list_size(const plum_kv_list *list);
PLUM_API const plum_kv_entry *plum_kv_list_at(const plum_kv_list *list, size_t index);

/* A list of one entry. */
PLUM_API plum_status plum_kv_get(plum_client *client, const char *space, const char *key,
                                 plum_kv_list **list);
/* All entries whose keys begin so (NULL = all), by key. */
PLUM_API plum_status plum_kv_list_get(plum_client *client, const char *space, const char *prefix,
                                      plum_kv_list **list);
/* type: NULL = string. ttl_ms: 0 = for ever. version: what it has now; may be NULL. */
PLUM_API plum_status plum_kv_put(plum_client *client, const char *space, const char *key,
                                 const char *value, size_t size_bytes, const char *type,
                                 int64_t ttl_ms, int64_t *version);
/* Only if it is at that version (0 = not there): else PLUM_E_PRECONDITION. */
PLUM_API plum_status plum_kv_cas(plum_client *client, const char *space, const char *key,
                                 int64_t if_version, const char *value, size_t size_bytes,
                                 const char *type, int64_t ttl_ms, int64_t *version);
/* Bytes, which travel as base64. */
PLUM_API plum_status plum_kv_put_bytes(plum_client *client, const char *space, const char *key,
                                       const void *data, size_t size_bytes, int64_t *version);
/* if_version: only if it is at that one, from 1 on; PLUM_ANY_VERSION: also when it is not there. */
PLUM_API plum_status plum_kv_delete(plum_client *client, const char *space, const char *key,
                                    int64_t if_version);

/* All or nothing. A commit empties the batch, whatever becomes of it. */
typedef struct plum_kv_batch plum_kv_batch;

PLUM_API plum_status plum_kv_batch_new(plum_kv_batch **batch);
PLUM_API void plum_kv_batch_free(plum_kv_batch *batch);
PLUM_API plum_status plum_kv_batch_put(plum_kv_batch *batch, const char *key, const char *value,
                                       size_t size_bytes, const char *type, int64_t ttl_ms,
                                       int64_t if_version);
PLUM_API plum_status plum_kv_batch_delete(plum_kv_batch *batch, const char *key,
                                          int64_t if_version);
PLUM_API plum_status plum_kv_batch_commit(plum_client *client, const char *space,
                                          plum_kv_batch *batch);

/* What is there and then what changes, over a connection of its own. After a lost connection it
 * tells what changed meanwhile, deletions too; of a key that changed often, the newest value. */
typedef struct plum_kv_watch plum_kv_watch;

PLUM_API plum_status plum_kv_watch_new(const plum_client *client, const char *space,
                                       const char *prefix, plum_kv_watch **watch);
PLUM_API void plum_kv_watch_free(plum_kv_watch *watch);
/* The next change; PLUM_E_TIMEOUT: none came. A lost connection is dialed again; what another try
 * would not change (PLUM_E_DENIED ...) is answered. *entry is valid until the next call. */
PLUM_API plum_status plum_kv_watch_next(plum_kv_watch *watch, int timeout_ms,
                                        const plum_kv_entry **entry);
/* Whether all that was there when the connection began has been told. */
PLUM_API int plum_kv_watch_is_current(const plum_kv_watch *watch);

/* ------------------------------------------------------------------ services */

typedef struct plum_endpoint {
  const char *service;
  const char *instance_id;
  const char *node_id;
  const char *ip; /* NULL or "": the caller's */
  int port;
  const char *protocol; /* NULL: http */
  const char *version;
} plum_endpoint;

typedef enum plum_strategy {
  PLUM_RANDOM = 0,
  PLUM_ROUND_ROBIN = 1,
  PLUM_STICKY = 2,      /* the same one as long as it is healthy */
  PLUM_LEAST_LOADED = 3 /* as the daemon sees it: asked each time, for only it knows the load */
} plum_strategy;

/* All endpoints of one instance; those that it had and that are not named are forgotten. */
PLUM_API plum_status plum_service_register(plum_client *client, const char *instance_id,
                                           const plum_endpoint *endpoints, size_t count);
/* At least each 5 s. It says how these endpoints are; with count 0 the daemon looks by itself. */
PLUM_API plum_status plum_service_heartbeat(plum_client *client, const char *instance_id,
                                            const plum_endpoint *endpoints, size_t count,
                                            int healthy);
PLUM_API plum_status plum_service_deregister(plum_client *client, const char *instance_id);

/* Finds endpoints, and remembers them for cache_ms; when the daemon is away, for longer. */
typedef struct plum_resolver plum_resolver;

PLUM_API plum_status plum_resolver_new(plum_client *client, int cache_ms,
                                       plum_resolver **resolver);
PLUM_API void plum_resolver_free(plum_resolver *resolver);
/* PLUM_E_NOT_FOUND: none is healthy. The endpoint is valid until the next call. */
PLUM_API plum_status plum_resolver_pick(plum_resolver *resolver, const char *service,
                                        plum_strategy strategy, plum_endpoint *endpoint);
/* A call to it did not get through: it is not picked until the list is fetched anew. */
PLUM_API void plum_resolver_blame(plum_resolver *resolver, const plum_endpoint *endpoint);

/* ------------------------------------------------------------------ devices */

typedef struct plum_device plum_device;

/* One operation. 0 = done; else the caller is told that number (400 .. 599) as the device's status,
 * with what was put into answer. Called by the thread that runs the device. */
typedef int (*plum_operation)(void *context, const char *name, const char *value,
                              plum_buffer *answer);

PLUM_API plum_status plum_device_new(const char *url, const char *device_id, const char *type,
                                     plum_device **device);
PLUM_API void plum_device_free(plum_device *device);
PLUM_API plum_status plum_device_set_token(plum_device *device, const char *token);
PLUM_API plum_status plum_device_set_node(plum_device *device, const char *node_id);
PLUM_API plum_status plum_device_set_beat_ms(plum_device *device, int beat_ms);
PLUM_API plum_status plum_device_set_transport(plum_device *device,
                                               const plum_transport *transport);
PLUM_API plum_status plum_device_set_log(plum_device *device, plum_log log, void *context);
/* Describes a state, an operation; value_type: int, double, bool, string or enum. NULL = not
 * said. */
PLUM_API plum_status plum_device_add_state(plum_device *device, const char *name,
                                           const char *value_type, const char *unit);
PLUM_API plum_status plum_device_add_operation(plum_device *device, const char *name,
                                               const char *value_type, const char *unit,
                                               const char *min, const char *max);
PLUM_API plum_status plum_device_on_operation(plum_device *device, plum_operation operation,
                                              void *context);
/* Operations come by callback to this port (0 = a free one) of that host, not by long poll. */
PLUM_API plum_status plum_device_listen(plum_device *device, const char *host, int port);
/* From any thread: the newest value of each state is sent as soon as the line is free. */
PLUM_API plum_status plum_device_set_state(plum_device *device, const char *name,
                                           const char *value);
/* Serves until plum_device_stop. PLUM_E_REPLACED: another process is this device now.
 * PLUM_E_REJECTED, PLUM_E_DENIED: the daemon does not take it, and the log says why. */
PLUM_API plum_status plum_device_run(plum_device *device);
/* From any thread and from signal handlers. */
PLUM_API void plum_device_stop(plum_device *device);

#ifdef __cplusplus
}
#endif

#endif
