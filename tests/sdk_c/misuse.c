/* What the SDK is asked for that makes no sense: each call says so, and nothing else happens.
 *
 * No daemon is needed. It prints what was not as it should be.
 */
#include <plum.h>

#include <stdio.h>
#include <string.h>

#define NOWHERE "http://127.0.0.1:1"
#define EXPECT(wanted, call) expect((int)(wanted), (int)(call), #call, __LINE__)
#define CHECK(what) expect(1, what, #what, __LINE__)

static int wrong;

static void expect(int wanted, int found, const char *what, int line)
{
  if (wanted == found)
    return;
  printf("line %d: %s is %d, not %d\n", line, what, found, wanted);
  wrong++;
}

static void handler(plum_attempt *attempt, void *context)
{
  (void)attempt;
  (void)context;
}

static void texts(void)
{
  plum_buffer text = {0}, empty = {0};
  plum_json value, none = {NULL, 0, PLUM_JSON_NONE};
  plum_json_cursor cursor;
  unsigned char mask[4] = {1, 2, 3, 4};
  plum_buffer_add(&text, "abc", PLUM_Z);
  plum_buffer_add(&text, NULL, 5);
  CHECK(text.size_bytes == 3 && strcmp(text.data, "abc") == 0);
  plum_buffer_add_base64(&text, "abc", PLUM_Z);
  plum_buffer_add_base64(&text, NULL, 0);
  plum_buffer_add_json(&text, NULL, PLUM_Z);
  CHECK(strcmp(text.data, "abcYWJj\"\"") == 0 && !text.failed);
  plum_buffer_free(&text);
  plum_buffer_free(&text);
  plum_ws_frame(&text, PLUM_WS_TEXT, "abc", PLUM_Z, mask);
  CHECK(text.size_bytes == 9 && !text.failed);
  plum_ws_frame(&text, PLUM_WS_TEXT, NULL, 0, mask);
  CHECK(text.size_bytes == 15);
  plum_buffer_add(&text, "abc", (size_t)-1 >> 1);
  CHECK(text.failed);
  plum_buffer_free(&text);
  plum_ws_frame(&text, PLUM_WS_TEXT, "abc", (size_t)-1 >> 1, mask);
  CHECK(text.failed);
  plum_buffer_free(&text);
  EXPECT(PLUM_OK, plum_base64_decode(NULL, PLUM_Z, &empty));
  EXPECT(PLUM_E_INVALID, plum_base64_decode("YWJ", PLUM_Z, &empty));
  EXPECT(PLUM_E_INVALID, plum_json_parse(NULL, 7, &value));
  EXPECT(PLUM_E_INVALID, plum_json_parse("", PLUM_Z, &value));
  EXPECT(PLUM_JSON_NONE, plum_json_member(none, "x").type);
  EXPECT(PLUM_OK, plum_json_text(none, &empty));
  EXPECT(0, plum_json_is(none, "x"));
  cursor = plum_json_walk(none);
  EXPECT(0, plum_json_next(&cursor, NULL, &value));
  CHECK(plum_json_int(none, -3) == -3 && plum_json_bool(none, 1) == 1);
  plum_buffer_free(&empty);
  CHECK(strcmp(plum_status_text((plum_status)99), "unknown status") == 0);
}

static void readers(void)
{
  static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
  static const char stream[] = "data: a\n\n";
  plum_http_reader *http;
  plum_ws_reader *ws;
  plum_sse_reader *sse;
  plum_http_event event;
  plum_ws_event frame;
  plum_sse_event told;
  plum_piece piece;
  size_t used;
  int code;
  CHECK(plum_http_reader_new(1, &http) == PLUM_OK);
  CHECK(strcmp(plum_http_reader_method(http), "") == 0);
  CHECK(strcmp(plum_http_reader_target(http), "") == 0);
  CHECK(plum_http_reader_header(http, "host") == NULL);
  plum_http_reader_free(http);
  CHECK(plum_http_reader_new(0, &http) == PLUM_OK);
  EXPECT(PLUM_OK, plum_http_reader_feed(http, NULL, 0, &used, &event, &piece));
  EXPECT(PLUM_HTTP_MORE, event);
  EXPECT(PLUM_OK, plum_http_reader_feed(http, answer, PLUM_Z, &used, &event, &piece));
  EXPECT(PLUM_HTTP_HEAD, event);
  EXPECT(PLUM_OK, plum_http_reader_feed(http, answer + used, PLUM_Z, &used, &event, &piece));
  CHECK(event == PLUM_HTTP_BODY && piece.size_bytes == 2);
  plum_http_reader_free(http);
  CHECK(plum_ws_reader_new(0, &ws) == PLUM_OK);
  EXPECT(PLUM_OK, plum_ws_reader_feed(ws, NULL, 0, &used, &frame, &piece, &code));
  EXPECT(PLUM_E_TOO_LARGE, plum_ws_reader_feed(ws, "\x81\x01x", 3, &used, &frame, &piece, &code));
  plum_ws_reader_free(ws);
  CHECK(plum_sse_reader_new(&sse) == PLUM_OK);
  EXPECT(PLUM_AGAIN, plum_sse_reader_feed(sse, NULL, 0, &used, &told));
  EXPECT(PLUM_OK, plum_sse_reader_feed(sse, stream, PLUM_Z, &used, &told));
  CHECK(used == sizeof stream - 1 && strcmp(told.data, "a") == 0);
  plum_sse_reader_free(sse);
}

static void urls(void)
{
  static const char *const bad[] = {"ftp://a", "http://", "http:///x", "http://a:0", "a",
                                    "http://a:65536", "http://a:b", "http://[::1", "http://[]:1",
                                    "http://[::1]x:1", "http://a b", "http://u@a", "http://a/?q",
                                    "http://a/\x7f", "http://\xC3\xA9"};
  static const char *const good[] = {"http://a", "http://[::1]:8080/base/", "https://a:1",
                                     "http://localhost"};
  plum_client *client;
  plum_worker *worker;
  plum_device *device;
  size_t i;
  for (i = 0; i < sizeof bad / sizeof *bad; i++) {
    EXPECT(PLUM_E_INVALID, plum_client_new(bad[i], &client));
    EXPECT(PLUM_E_INVALID, plum_worker_new(bad[i], &worker));
    EXPECT(PLUM_E_INVALID, plum_device_new(bad[i], "d", "", &device));
    CHECK(client == NULL && worker == NULL && device == NULL);
  }
  for (i = 0; i < sizeof good / sizeof *good; i++) {
    EXPECT(PLUM_OK, plum_client_new(good[i], &client));
    plum_client_free(client);
  }
}

static void workers(void)
{
  plum_worker *worker;
  plum_worker_figures figures;
  char name[1000];
  CHECK(plum_worker_new(NOWHERE, &worker) == PLUM_OK);
  EXPECT(PLUM_E_INVALID, plum_worker_set_id(worker, NULL));
  EXPECT(PLUM_E_INVALID, plum_worker_set_id(worker, ""));
  EXPECT(PLUM_E_INVALID, plum_worker_set_id(worker, "local:disk"));
  EXPECT(PLUM_E_INVALID, plum_worker_set_token(worker, "a\r\nb"));
  EXPECT(PLUM_E_INVALID, plum_worker_set_capacity(worker, 0));
  EXPECT(PLUM_E_INVALID, plum_worker_set_capacity(worker, PLUM_CAPACITY_MAX + 1));
  EXPECT(PLUM_E_INVALID, plum_worker_set_beat_ms(worker, -1));
  EXPECT(PLUM_E_INVALID, plum_worker_set_drain_timeout_ms(worker, -1));
  EXPECT(PLUM_E_INVALID, plum_worker_set_label(worker, NULL, "x"));
  EXPECT(PLUM_E_INVALID, plum_worker_set_label(worker, "", "x"));
  EXPECT(PLUM_E_INVALID, plum_worker_set_label(worker, "x", NULL));
  EXPECT(PLUM_OK, plum_worker_set_node(worker, NULL));
  EXPECT(PLUM_OK, plum_worker_set_app(worker, NULL, NULL));
  EXPECT(PLUM_E_INVALID, plum_worker_add_task(worker, NULL, handler, NULL));
  EXPECT(PLUM_E_INVALID, plum_worker_add_task(worker, "", handler, NULL));
  EXPECT(PLUM_E_INVALID, plum_worker_add_task(worker, "!x", handler, NULL));
  EXPECT(PLUM_E_INVALID, plum_worker_add_task(worker, "x", NULL, NULL));
  memset(name, 'x', sizeof name);
  name[sizeof name - 1] = '\0';
  EXPECT(PLUM_E_INVALID, plum_worker_add_task(worker, name, handler, NULL));
  EXPECT(PLUM_OK, plum_worker_add_task(worker, "x", handler, NULL));
  EXPECT(PLUM_E_CONFLICT, plum_worker_add_task(worker, "x", handler, NULL));
  EXPECT(PLUM_E_NOT_FOUND, plum_worker_drop_task(worker, "y"));
  EXPECT(PLUM_E_INVALID, plum_worker_drop_task(worker, NULL));
  EXPECT(PLUM_E_INVALID, plum_worker_run(worker, -1));
  EXPECT(PLUM_E_INVALID, plum_worker_run(worker, 1000000));
  CHECK(plum_worker_next_deadline_ms(worker) == 0);
  plum_worker_look(worker, &figures);
  CHECK(figures.connected == 0 && figures.running == 0);
  plum_worker_stop(worker);
  plum_worker_drain(worker);
  EXPECT(PLUM_OK, plum_worker_run(worker, 1));
  EXPECT(PLUM_E_STATE, plum_worker_run(worker, 1));
  EXPECT(PLUM_OK, plum_worker_step(worker));
  EXPECT(PLUM_E_STATE, plum_worker_set_id(worker, "late"));
  EXPECT(PLUM_E_STATE, plum_worker_set_label(worker, "a", "b"));
  EXPECT(PLUM_E_STATE, plum_worker_set_transport(worker, NULL));
  EXPECT(PLUM_OK, plum_worker_drop_task(worker, "x"));
  plum_worker_free(worker);
  CHECK(plum_worker_new(NOWHERE, &worker) == PLUM_OK);
  EXPECT(PLUM_OK, plum_worker_set_directory(worker, "/proc/no/such"));
  EXPECT(PLUM_E_DISK, plum_worker_step(worker));
  EXPECT(PLUM_E_DISK, plum_worker_step(worker));
  plum_worker_free(worker);
  plum_worker_free(NULL);
}

static void tasks(plum_client *client)
{
  plum_order *order;
  plum_task *task;
  plum_bulk *bulk;
  EXPECT(PLUM_E_INVALID, plum_order_new(NULL, &order));
  CHECK(order == NULL);
  CHECK(plum_order_new("x", &order) == PLUM_OK);
  EXPECT(PLUM_E_INVALID, plum_order_set_payload(order, "{", PLUM_Z));
  EXPECT(PLUM_E_INVALID, plum_order_set_payload(order, "", 0));
  EXPECT(PLUM_OK, plum_order_set_payload(order, NULL, 0));
  EXPECT(PLUM_E_INVALID, plum_order_set_priority(order, -1));
  EXPECT(PLUM_E_INVALID, plum_order_set_priority(order, 10));
  EXPECT(PLUM_E_INVALID, plum_order_set_timeout_ms(order, -1));
  EXPECT(PLUM_E_INVALID, plum_order_set_queue_timeout_ms(order, -1));
  EXPECT(PLUM_E_INVALID, plum_order_set_delay_ms(order, -1));
  EXPECT(PLUM_E_INVALID, plum_order_set_retries(order, -1));
  EXPECT(PLUM_E_INVALID, plum_order_set_label(order, NULL, "x"));
  EXPECT(PLUM_E_INVALID, plum_order_set_label(order, "x", NULL));
  EXPECT(PLUM_E_INVALID, plum_order_set_json(order, NULL, "1"));
  EXPECT(PLUM_E_INVALID, plum_order_set_json(order, "", "1"));
  EXPECT(PLUM_E_INVALID, plum_order_set_json(order, "x", "}"));
  EXPECT(PLUM_OK, plum_order_set_json(order, "none", NULL));
  EXPECT(PLUM_E_UNREACHABLE, plum_task_submit(client, order, -5, &task));
  CHECK(task == NULL);
  EXPECT(PLUM_E_INVALID, plum_task_get(client, NULL, &task));
  EXPECT(PLUM_E_INVALID, plum_task_get(client, "", &task));
  EXPECT(PLUM_E_INVALID, plum_task_wait(client, NULL, 0, &task));
  EXPECT(PLUM_E_INVALID, plum_task_cancel(client, NULL, 0, &task));
  CHECK(task == NULL);
  plum_task_free(NULL);
  CHECK(plum_bulk_new(&bulk) == PLUM_OK);
  EXPECT(PLUM_OK, plum_bulk_submit(client, bulk));
  EXPECT(PLUM_OK, plum_bulk_add(bulk, order));
  EXPECT(PLUM_E_UNREACHABLE, plum_bulk_submit(client, bulk));
  CHECK(plum_bulk_size(bulk) == 0 && strcmp(plum_bulk_task_id(bulk, 7), "") == 0);
  CHECK(strcmp(plum_bulk_error_code(bulk, 7), "") == 0);
  plum_bulk_free(bulk);
  plum_order_free(order);
}

static void keys(plum_client *client)
{
  plum_kv_list *list;
  plum_kv_batch *batch;
  plum_kv_watch *watch;
  const plum_kv_entry *entry;
  int64_t version = 7;
  EXPECT(PLUM_E_INVALID, plum_kv_get(client, NULL, "k", &list));
  EXPECT(PLUM_E_INVALID, plum_kv_get(client, "a/b", "k", &list));
  EXPECT(PLUM_E_INVALID, plum_kv_get(client, "s", NULL, &list));
  EXPECT(PLUM_E_INVALID, plum_kv_get(client, "s", "", &list));
  CHECK(list == NULL);
  EXPECT(PLUM_E_INVALID, plum_kv_list_get(client, "", NULL, &list));
  EXPECT(PLUM_E_INVALID, plum_kv_put(client, "s", "k", NULL, 0, NULL, 0, &version));
  EXPECT(PLUM_E_INVALID, plum_kv_put(client, "s", "k", "v", PLUM_Z, NULL, -1, &version));
  EXPECT(PLUM_E_INVALID, plum_kv_cas(client, "s", "k", -2, "v", PLUM_Z, NULL, 0, &version));
  EXPECT(PLUM_E_INVALID, plum_kv_put_bytes(client, "s", NULL, "v", 1, &version));
  EXPECT(PLUM_E_INVALID, plum_kv_put_bytes(client, "s", "k", NULL, 1, &version));
  EXPECT(PLUM_E_INVALID, plum_kv_delete(client, "s", "k", -2));
  EXPECT(PLUM_E_INVALID, plum_kv_delete(client, "s", "k", 0));
  EXPECT(PLUM_E_INVALID, plum_kv_delete(client, "s", NULL, 1));
  CHECK(version == 7);
  CHECK(plum_kv_batch_new(&batch) == PLUM_OK);
  EXPECT(PLUM_E_INVALID, plum_kv_batch_put(batch, NULL, "v", PLUM_Z, NULL, 0, -1));
  EXPECT(PLUM_E_INVALID, plum_kv_batch_put(batch, "k", NULL, 0, NULL, 0, -1));
  EXPECT(PLUM_E_INVALID, plum_kv_batch_put(batch, "k", "v", PLUM_Z, NULL, 0, -2));
  EXPECT(PLUM_E_INVALID, plum_kv_batch_put(batch, "k", "v", PLUM_Z, NULL, -1, -1));
  EXPECT(PLUM_E_INVALID, plum_kv_batch_delete(batch, NULL, -1));
  EXPECT(PLUM_E_INVALID, plum_kv_batch_delete(batch, "k", 0));
  EXPECT(PLUM_E_INVALID, plum_kv_batch_commit(client, NULL, batch));
  EXPECT(PLUM_E_UNREACHABLE, plum_kv_batch_commit(client, "s", batch));
  plum_kv_batch_free(batch);
  EXPECT(PLUM_E_INVALID, plum_kv_watch_new(client, NULL, NULL, &watch));
  EXPECT(PLUM_E_INVALID, plum_kv_watch_new(client, "", NULL, &watch));
  EXPECT(PLUM_E_INVALID, plum_kv_watch_new(client, "a/b", NULL, &watch));
  CHECK(watch == NULL);
  CHECK(plum_kv_watch_new(client, "s", NULL, &watch) == PLUM_OK);
  EXPECT(PLUM_E_TIMEOUT, plum_kv_watch_next(watch, -1, &entry));
  EXPECT(PLUM_E_TIMEOUT, plum_kv_watch_next(watch, 20, &entry));
  CHECK(entry == NULL && plum_kv_watch_is_current(watch) == 0);
  plum_kv_watch_free(watch);
}

static void services(plum_client *client)
{
  plum_endpoint own = {"s", "i", NULL, NULL, 9000, NULL, NULL}, found;
  plum_endpoint blank = {NULL, NULL, NULL, NULL, 0, NULL, NULL};
  plum_resolver *resolver;
  EXPECT(PLUM_E_INVALID, plum_service_register(client, NULL, &own, 1));
  EXPECT(PLUM_E_INVALID, plum_service_register(client, "i", NULL, 1));
  EXPECT(PLUM_E_INVALID, plum_service_register(client, "i", &blank, 1));
  EXPECT(PLUM_E_INVALID, plum_service_heartbeat(client, NULL, &own, 1, 1));
  EXPECT(PLUM_E_INVALID, plum_service_heartbeat(client, "i", NULL, 1, 1));
  EXPECT(PLUM_E_INVALID, plum_service_heartbeat(client, "i", &blank, 1, 1));
  EXPECT(PLUM_E_INVALID, plum_service_deregister(client, NULL));
  EXPECT(PLUM_E_INVALID, plum_service_deregister(client, ""));
  CHECK(plum_resolver_new(client, -1, &resolver) == PLUM_OK);
  EXPECT(PLUM_E_INVALID, plum_resolver_pick(resolver, NULL, PLUM_RANDOM, &found));
  EXPECT(PLUM_E_INVALID, plum_resolver_pick(resolver, "s", (plum_strategy)9, &found));
  EXPECT(PLUM_E_UNREACHABLE, plum_resolver_pick(resolver, "s", PLUM_LEAST_LOADED, &found));
  plum_resolver_blame(resolver, &blank);
  plum_resolver_blame(resolver, &own);
  plum_resolver_free(resolver);
}

static void devices(void)
{
  plum_device *device, *other;
  EXPECT(PLUM_E_INVALID, plum_device_new(NOWHERE, NULL, "t", &device));
  EXPECT(PLUM_E_INVALID, plum_device_new(NOWHERE, "", "t", &device));
  CHECK(plum_device_new(NOWHERE, "d", NULL, &device) == PLUM_OK);
  EXPECT(PLUM_E_INVALID, plum_device_set_token(device, "\n"));
  EXPECT(PLUM_E_INVALID, plum_device_set_beat_ms(device, 0));
  EXPECT(PLUM_E_INVALID, plum_device_add_state(device, NULL, "int", NULL));
  EXPECT(PLUM_E_INVALID, plum_device_add_state(device, "", "int", NULL));
  EXPECT(PLUM_E_INVALID, plum_device_add_operation(device, NULL, NULL, NULL, NULL, NULL));
  EXPECT(PLUM_E_INVALID, plum_device_set_state(device, NULL, "1"));
  EXPECT(PLUM_E_INVALID, plum_device_set_state(device, "s", NULL));
  EXPECT(PLUM_E_INVALID, plum_device_listen(device, "127.0.0.1", 65536));
  EXPECT(PLUM_E_INVALID, plum_device_listen(device, "no such host", 0));
  EXPECT(PLUM_OK, plum_device_listen(device, NULL, 0));
  CHECK(plum_device_new(NOWHERE, "e", NULL, &other) == PLUM_OK);
  EXPECT(PLUM_E_STATE, plum_device_listen(other, "203.0.113.9", 0));
  plum_device_stop(other);
  EXPECT(PLUM_OK, plum_device_run(other));
  plum_device_free(other);
  plum_device_free(device);
  plum_device_free(NULL);
}

static void calls(plum_client *client)
{
  plum_reply *reply;
  plum_problem problem;
  EXPECT(PLUM_E_INVALID, plum_client_set_timeout_ms(client, 0));
  EXPECT(PLUM_E_INVALID, plum_client_set_token(client, "a b"));
  EXPECT(PLUM_E_INVALID, plum_client_call(client, NULL, "/", NULL, NULL, 0, &reply));
  EXPECT(PLUM_E_INVALID, plum_client_call(client, "", "/", NULL, NULL, 0, &reply));
  EXPECT(PLUM_E_INVALID, plum_client_call(client, "G T", "/", NULL, NULL, 0, &reply));
  EXPECT(PLUM_E_INVALID, plum_client_call(client, "GET", NULL, NULL, NULL, 0, &reply));
  EXPECT(PLUM_E_INVALID, plum_client_call(client, "GET", "", NULL, NULL, 0, &reply));
  EXPECT(PLUM_E_INVALID, plum_client_call(client, "GET", "/a b", NULL, NULL, 0, &reply));
  CHECK(reply == NULL);
  EXPECT(PLUM_E_UNREACHABLE, plum_client_call(client, "GET", "/", NULL, NULL, 0, NULL));
  problem = plum_client_problem(client);
  CHECK(problem.http_status == 0 && strcmp(problem.code, "") == 0);
  plum_reply_free(NULL);
}

int main(void)
{
  plum_client *client;
  texts();
  readers();
  urls();
  workers();
  CHECK(plum_client_new(NOWHERE, &client) == PLUM_OK);
  calls(client);
  tasks(client);
  keys(client);
  services(client);
  plum_client_free(client);
  devices();
  plum_client_free(NULL);
  printf("%d wrong\n", wrong);
  return wrong != 0;
}
