/* plum.c from inside, built with sanitizers: small checks, real traffic cut everywhere, fuzzing.
 *
 *   inside unit DIRECTORY
 *   inside traffic KIND FILE         KIND: http, request, ws, sse, down
 *   inside fuzz ROUNDS KIND FILE ... mutates the files; the same rounds give the same inputs
 *
 * With -DPLUM_LIBFUZZER it is a libFuzzer target instead; an input's first byte names the KIND.
 */
#include "plum.c"

#include <assert.h>
#include <sys/wait.h>

#undef assert /* these are the test: never left out */
#define assert(what)                                                                              \
  do {                                                                                            \
    if (!(what)) {                                                                                \
      fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #what);                                  \
      abort();                                                                                    \
    }                                                                                             \
  } while (0)

enum { HTTP, REQUEST, WS, SSE, DOWN, JSON, JOURNAL, KINDS };

/* ------------------------------------------------------------------ what is made of bytes */

typedef struct feeder {
  int kind;
  void *reader;
  plum_buffer told;     /* what it said, in one text */
  plum_status status;   /* PLUM_OK while it understands */
} feeder;

static void feeder_open(feeder *feed, int kind)
{
  memset(feed, 0, sizeof *feed);
  feed->kind = kind;
  if (kind == WS)
    assert(plum_ws_reader_new(PLUM_MESSAGE_BYTES_MAX, (plum_ws_reader **)&feed->reader) == PLUM_OK);
  else if (kind == SSE)
    assert(plum_sse_reader_new((plum_sse_reader **)&feed->reader) == PLUM_OK);
  else {
    plum_http_reader *http;
    assert(plum_http_reader_new(kind == REQUEST, &http) == PLUM_OK);
    plum_http_reader_begin(http, 0);
    feed->reader = http;
  }
  plum_buffer_add(&feed->told, "", 0);
}

static void feeder_close(feeder *feed)
{
  if (feed->kind == WS)
    plum_ws_reader_free(feed->reader);
  else if (feed->kind == SSE)
    plum_sse_reader_free(feed->reader);
  else
    plum_http_reader_free(feed->reader);
  plum_buffer_free(&feed->told);
}

static plum_status feed_http(feeder *feed, const char *data, size_t size, size_t *used)
{
  plum_http_reader *http = feed->reader;
  plum_http_event event;
  plum_piece piece;
  size_t i;
  plum_status status = plum_http_reader_feed(http, data, size, used, &event, &piece);
  assert(*used <= size);
  if (status != PLUM_OK)
    return status;
  if (event == PLUM_HTTP_HEAD) {
    plum_buffer_print(&feed->told, "[head %d %s %s", http->status,
                      feed->kind == REQUEST ? http->method : "",
                      feed->kind == REQUEST ? http->target : "");
    for (i = 0; i < http->count; i++)
      plum_buffer_print(&feed->told, " %s=%s", http->names[i], http->values[i]);
    add_text(&feed->told, "]");
  } else if (event == PLUM_HTTP_BODY) {
    plum_buffer_add(&feed->told, piece.data, piece.size_bytes);
  } else if (event == PLUM_HTTP_END) {
    plum_buffer_print(&feed->told, "[end %d]", http->keeps_alive);
    plum_http_reader_begin(http, 0);
  }
  return event == PLUM_HTTP_MORE ? PLUM_AGAIN : PLUM_OK;
}

static plum_status feed_ws(feeder *feed, const char *data, size_t size, size_t *used)
{
  plum_ws_event event;
  plum_piece content = {NULL, 0};
  int code = 0;
  plum_status status = plum_ws_reader_feed(feed->reader, data, size, used, &event, &content, &code);
  assert(*used <= size);
  if (status != PLUM_OK)
    return status;
  if (event == PLUM_WS_MORE)
    return PLUM_AGAIN;
  plum_buffer_print(&feed->told, "[ws %d %d %zu ", (int)event, code, content.size_bytes);
  plum_buffer_add(&feed->told, content.data, content.size_bytes);
  add_text(&feed->told, "]");
  return PLUM_OK;
}

static plum_status feed_sse(feeder *feed, const char *data, size_t size, size_t *used)
{
  plum_sse_event event;
  plum_status status = plum_sse_reader_feed(feed->reader, data, size, used, &event);
  assert(*used <= size);
  if (status == PLUM_OK)
    plum_buffer_print(&feed->told, "[sse %s|%s|%s]", event.name, event.data, event.id);
  return status;
}

/* Feeds a copy that is exactly so long, so that a byte read too far is seen. */
static void feed_piece(feeder *feed, const char *data, size_t size)
{
  char *copy = malloc(size == 0 ? 1 : size);
  size_t at = 0;
  assert(copy != NULL);
  memcpy(copy, data, size);
  while (feed->status == PLUM_OK) {
    size_t used = 0;
    plum_status status = feed->kind == WS ? feed_ws(feed, copy + at, size - at, &used)
                         : feed->kind == SSE ? feed_sse(feed, copy + at, size - at, &used)
                                             : feed_http(feed, copy + at, size - at, &used);
    at += used;
    if (status == PLUM_AGAIN) {
      assert(at == size);
      break;
    }
    feed->status = status;
  }
  free(copy);
}

/* ------------------------------------------------------------------ messages to a worker */

static void nothing(plum_attempt *attempt, void *context)
{
  (void)attempt;
  (void)context;
}

/* A worker without a line that takes messages. */
static plum_worker *new_worker(const char *directory)
{
  plum_worker *worker;
  assert(plum_worker_new("http://127.0.0.1:1", &worker) == PLUM_OK);
  assert(plum_worker_add_task(worker, "t", nothing, NULL) == PLUM_OK);
  assert(plum_worker_set_id(worker, "w") == PLUM_OK);
  assert(plum_worker_set_directory(worker, directory) == PLUM_OK);
  return worker;
}

static void hear_copy(plum_worker *worker, const char *data, size_t size, plum_status *status)
{
  char *copy = malloc(size == 0 ? 1 : size);
  assert(copy != NULL);
  memcpy(copy, data, size);
  *status = hear(worker, copy, size);
  free(copy);
}

static void check_lists(plum_worker *worker)
{
  const list *lists[6];
  size_t i;
  lists[0] = &worker->waiting;
  lists[1] = &worker->running;
  lists[2] = &worker->unsent;
  lists[3] = &worker->sent;
  lists[4] = &worker->held;
  lists[5] = &worker->unused;
  for (i = 0; i < 6; i++) {
    const plum_attempt *attempt, *before = NULL;
    size_t count = 0;
    for (attempt = lists[i]->first; attempt != NULL; attempt = attempt->after, count++) {
      assert(attempt->before == before && attempt->in == lists[i]);
      before = attempt;
      if (i < 4) {
        known *found = known_find(worker, attempt->known.id);
        assert(found != NULL && found->attempt == attempt);
      }
    }
    assert(before == lists[i]->last && count == lists[i]->count);
  }
}

/* ------------------------------------------------------------------ fuzzing */

static void fuzz_json(const char *data, size_t size)
{
  plum_json value, key, each;
  plum_json_cursor cursor;
  plum_buffer text = {0}, again = {0};
  if (plum_json_parse(data, size, &value) == PLUM_OK) {
    assert(plum_json_text(value, &text) == PLUM_OK);
    if (value.type == PLUM_JSON_STRING) { /* what it says, said again, says the same */
      plum_json second;
      plum_buffer_add_json(&again, text.data, text.size_bytes);
      assert(plum_json_parse(again.data, again.size_bytes, &second) == PLUM_OK);
      assert(is_utf8(text.data, text.size_bytes));
    }
    (void)plum_json_int(value, 0);
    (void)plum_json_double(value, 0);
    for (cursor = plum_json_walk(value); plum_json_next(&cursor, &key, &each);) {
      assert(plum_json_parse(each.text, each.size_bytes, &key) == PLUM_OK);
      assert(key.size_bytes == each.size_bytes);
    }
    (void)plum_json_member(value, "a");
  }
  plum_buffer_add_json(&again, data, size); /* any bytes at all become JSON */
  plum_buffer_free(&text);
  plum_buffer_free(&again);
  (void)plum_base64_decode(data, size, &text);
  plum_buffer_free(&text);
}

static void fuzz_down(const char *data, size_t size)
{
  plum_worker *worker = new_worker(NULL);
  plum_status status;
  const char *line = data, *end = data + size;
  assert(worker_begin(worker) == PLUM_OK);
  worker->registered = 1;
  worker->handlers_inline = 1;
  while (line < end) { /* a message a line */
    const char *stop = memchr(line, '\n', (size_t)(end - line));
    stop = stop == NULL ? end : stop;
    worker->seq = 3;
    hear_copy(worker, line, (size_t)(stop - line), &status);
    check_lists(worker);
    desk_work(worker);
    lock(worker);
    (void)collect(worker, now_ms());
    unlock(worker);
    check_lists(worker);
    line = stop + 1;
  }
  lock(worker);
  desk_rewind(worker);
  unlock(worker);
  check_lists(worker);
  plum_worker_free(worker);
}

static void fuzz_journal(const char *data, size_t size)
{
  plum_worker *worker = new_worker(NULL);
  plum_buffer content = {0};
  plum_buffer_add(&content, data, size);
  worker->over_count = OVER_IDS_MIN;
  worker->over = calloc(worker->over_count, sizeof *worker->over);
  assert(worker->over != NULL);
  lock(worker);
  journal_load(worker, &content);
  unlock(worker);
  check_lists(worker);
  plum_buffer_free(&content);
  plum_worker_free(worker);
}

static void fuzz_one(int kind, const char *data, size_t size)
{
  feeder feed;
  size_t half = size / 2;
  char *copy = malloc(size == 0 ? 1 : size);
  assert(copy != NULL);
  memcpy(copy, data, size);
  if (kind == JSON) {
    fuzz_json(copy, size);
  } else if (kind == DOWN) {
    fuzz_down(copy, size);
  } else if (kind == JOURNAL) {
    fuzz_journal(copy, size);
  } else {
    feeder second;
    feeder_open(&feed, kind);
    feed_piece(&feed, copy, size);
    feeder_open(&second, kind);
    feed_piece(&second, copy, half);
    feed_piece(&second, copy + half, size - half);
    assert(feed.status == second.status); /* however it is cut */
    feeder_close(&second);
    if (kind == HTTP)
      (void)plum_http_reader_end(feed.reader);
    feeder_close(&feed);
  }
  free(copy);
}

#ifdef PLUM_LIBFUZZER
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  if (size > 0)
    fuzz_one(data[0] % KINDS, (const char *)data + 1, size - 1);
  return 0;
}
#else

/* ------------------------------------------------------------------ traffic, cut everywhere */

/* What the worker has in hand, as a text. */
static void describe(plum_worker *worker, plum_buffer *out)
{
  plum_attempt *attempt;
  for (attempt = worker->waiting.first; attempt != NULL; attempt = attempt->after)
    plum_buffer_print(out, "[waiting %s %s %s %lld %d]", attempt->known.id,
                      plum_attempt_name(attempt), plum_attempt_payload(attempt, NULL),
                      (long long)attempt->timeout_ms, attempt->number);
  for (attempt = worker->unsent.first; attempt != NULL; attempt = attempt->after)
    plum_buffer_print(out, "[unsent %s]", attempt->report.data);
  plum_buffer_add(out, "", 0);
}

static void one_message(const char *data, size_t size, int whole)
{
  plum_worker *worker = new_worker(NULL);
  plum_buffer text = {0};
  plum_status status;
  assert(worker_begin(worker) == PLUM_OK);
  worker->seq = 5;
  hear_copy(worker, data, size, &status);
  check_lists(worker);
  if (whole) {
    assert(status == PLUM_OK || status == PLUM_E_CLOSED || status == PLUM_E_REPLACED);
    describe(worker, &text);
    printf("%d %s\n", status, text.data);
  } else {
    assert(status == PLUM_E_PROTOCOL && worker->figures.attempts == 0 && !worker->registered);
  }
  plum_buffer_free(&text);
  plum_worker_free(worker);
}

static void cut_everywhere(int kind, const char *data, size_t size)
{
  feeder whole, part;
  size_t at;
  feeder_open(&whole, kind);
  feed_piece(&whole, data, size);
  assert(whole.status == PLUM_OK);
  for (at = 0; at <= size; at++) {
    feeder_open(&part, kind);
    feed_piece(&part, data, at);
    assert(part.status == PLUM_OK);
    assert(part.told.size_bytes <= whole.told.size_bytes
           && memcmp(part.told.data, whole.told.data, part.told.size_bytes) == 0);
    feed_piece(&part, data + at, size - at);
    assert(part.status == PLUM_OK && part.told.size_bytes == whole.told.size_bytes
           && memcmp(part.told.data, whole.told.data, whole.told.size_bytes) == 0);
    feeder_close(&part);
  }
  feeder_open(&part, kind);
  for (at = 0; at < size; at++)
    feed_piece(&part, data + at, 1);
  assert(part.told.size_bytes == whole.told.size_bytes
         && memcmp(part.told.data, whole.told.data, whole.told.size_bytes) == 0);
  feeder_close(&part);
  fwrite(whole.told.data, 1, whole.told.size_bytes, stdout);
  feeder_close(&whole);
}

/* ------------------------------------------------------------------ faults put in */

/* One change of a random kind. */
static void mutate(plum_buffer *data, chance *source)
{
  static const char *const bits[] = {"\r\n", "\n\n", "\"", "\\u", "{", "]", "\0\0\0\0", "\x81\x7f",
                                     "\xff\xff\xff\xff\xff\xff\xff\xff", "9999999999999999999",
                                     "chunked", ":", "1e999", "-", "\xed\xa0\x80", "null", ","};
  size_t at = data->size_bytes == 0 ? 0 : (size_t)(chance_draw(source) % data->size_bytes);
  size_t left = data->size_bytes - at, count;
  switch (chance_draw(source) % 6) {
  case 0:
    if (left > 0)
      data->data[at] = (char)(data->data[at] ^ (1 << chance_draw(source) % 8));
    break;
  case 1:
    if (left > 0)
      data->data[at] = (char)chance_draw(source);
    break;
  case 2: /* take some out */
    count = left == 0 ? 0 : (size_t)(chance_draw(source) % (left < 16 ? left : 16));
    memmove(data->data + at, data->data + at + count, left - count);
    data->size_bytes -= count;
    break;
  case 3: /* put something in */
  {
    const char *bit = bits[chance_draw(source) % (sizeof bits / sizeof *bits)];
    count = strlen(bit);
    count = count == 0 ? 4 : count;
    if (!buffer_room(data, count))
      abort();
    memmove(data->data + at + count, data->data + at, left);
    memcpy(data->data + at, bit, count);
    data->size_bytes += count;
    break;
  }
  case 4: /* say a piece twice */
    count = left == 0 ? 0 : (size_t)(chance_draw(source) % (left < 64 ? left : 64));
    if (!buffer_room(data, count))
      abort();
    memmove(data->data + at + count, data->data + at, left);
    data->size_bytes += count;
    break;
  default: /* cut it off */
    data->size_bytes = at;
  }
}

static int kind_of(const char *name)
{
  static const char *const kinds[] = {"http", "request", "ws", "sse", "down", "json", "journal"};
  int kind = 0;
  while (kind < KINDS && strcmp(kinds[kind], name) != 0)
    kind++;
  assert(kind < KINDS);
  return kind;
}

static void fuzz(long rounds, int count, char **words)
{
  chance source = {{1, 2, 3, 4}};
  plum_buffer seeds[64];
  long round;
  int i, changes;
  memset(seeds, 0, sizeof seeds);
  assert(count / 2 <= 64);
  for (i = 0; i < count / 2; i++)
    assert(read_file(words[2 * i + 1], &seeds[i]) && seeds[i].size_bytes > 0);
  for (round = 0; round < rounds; round++) {
    plum_buffer data = {0};
    i = (int)(round % (count / 2));
    plum_buffer_add(&data, seeds[i].data, seeds[i].size_bytes);
    for (changes = 1 + (int)(chance_draw(&source) % 4); changes > 0; changes--)
      mutate(&data, &source);
    fuzz_one(kind_of(words[2 * i]), data.data, data.size_bytes);
    plum_buffer_free(&data);
  }
  for (i = 0; i < count / 2; i++)
    plum_buffer_free(&seeds[i]);
  printf("%ld rounds\n", rounds);
}

/* ------------------------------------------------------------------ small checks */

static void check_json(void)
{
  static const char *const good[] = {"0", "-0.5e+3", "\"\\u00e9\\n\"", "[]", "{}",
                                     " [1, {\"a\":[]}] ",
                                     "true", "[[[[]]],{}]", "\"\\ud83d\\ude00\"", "1E5"};
  static const char *const bad[] = {"", "01", "1.", "-", "+1", "[1,]", "{\"a\"}", "{,}", "[1 2]",
                                    "\"a",
                                    "\"\\x\"", "\"\\u12\"", "nul", "[", "{\"a\":1,}", "\"\t\"",
                                    "1 1",
                                    "]", "\"\xc3\"", "\"\xed\xa0\x80\"", "{1:2}", ".5", "[1,,2]"};
  char deep[2 * PLUM_DEPTH_MAX + 3];
  plum_json value;
  plum_buffer text = {0};
  size_t i;
  for (i = 0; i < sizeof good / sizeof *good; i++)
    assert(plum_json_parse(good[i], PLUM_Z, &value) == PLUM_OK);
  for (i = 0; i < sizeof bad / sizeof *bad; i++)
    assert(plum_json_parse(bad[i], PLUM_Z, &value) == PLUM_E_INVALID);
  memset(deep, '[', PLUM_DEPTH_MAX + 1);
  memset(deep + PLUM_DEPTH_MAX + 1, ']', PLUM_DEPTH_MAX + 1);
  assert(plum_json_parse(deep, 2 * PLUM_DEPTH_MAX + 2, &value) == PLUM_E_INVALID);
  assert(plum_json_parse(deep + 1, 2 * PLUM_DEPTH_MAX, &value) == PLUM_OK);
  assert(plum_json_parse("{\"a\":\"x\\u00e9\\ud83d\\ude00\\/\\b\\ud800!\",\"\\u0062\":-12}", PLUM_Z,
                         &value) == PLUM_OK);
  assert(plum_json_text(plum_json_member(value, "a"), &text) == PLUM_OK);
  assert(strcmp(text.data, "x\xc3\xa9\xf0\x9f\x98\x80/\b\xef\xbf\xbd!") == 0);
  assert(plum_json_int(plum_json_member(value, "b"), 0) == -12);
  assert(plum_json_member(value, "c").type == PLUM_JSON_NONE);
  assert(plum_json_parse("9223372036854775807", PLUM_Z, &value) == PLUM_OK);
  assert(plum_json_int(value, 0) == INT64_MAX);
  assert(plum_json_parse("1e400", PLUM_Z, &value) == PLUM_OK && plum_json_int(value, 7) == 7);
  assert(plum_json_parse("-1.25e2", PLUM_Z, &value) == PLUM_OK);
  assert(plum_json_double(value, 0) < -124.9 && plum_json_int(value, 0) == -125);
  plum_buffer_free(&text);
}

static void check_texts(void)
{
  plum_buffer out = {0}, back = {0};
  unsigned char bytes[256];
  size_t i, size;
  for (i = 0; i < 256; i++)
    bytes[i] = (unsigned char)i;
  for (size = 0; size < 256; size++) {
    buffer_clear(&out, SIZE_MAX);
    buffer_clear(&back, SIZE_MAX);
    plum_buffer_add_base64(&out, bytes, size);
    assert(plum_base64_decode(out.data == NULL ? "" : out.data, out.size_bytes, &back) == PLUM_OK);
    assert(back.size_bytes == size && (size == 0 || memcmp(back.data, bytes, size) == 0));
  }
  assert(plum_base64_decode("QQ=", PLUM_Z, &back) == PLUM_E_INVALID);
  assert(plum_base64_decode("Q=Q=", PLUM_Z, &back) == PLUM_E_INVALID);
  assert(plum_base64_decode("QQ==QQ==", PLUM_Z, &back) == PLUM_E_INVALID);
  buffer_clear(&out, SIZE_MAX);
  plum_buffer_add_json(&out, "a\"\\\n\x01\xff\xc3\xa9", PLUM_Z);
  assert(strcmp(out.data, "\"a\\\"\\\\\\n\\u0001\xef\xbf\xbd\xc3\xa9\"") == 0);
  assert(cut_text("\xc3\xa9\xc3\xa9", 4, 3) == 2 && cut_text("abc", 3, 3) == 3);
  for (i = 0; i <= PLUM_E_CUT_SHORT; i++)
    assert(strcmp(plum_status_text((plum_status)i), "unknown status") != 0);
  assert(strcmp(plum_status_text((plum_status)99), "unknown status") == 0);
  plum_buffer_free(&out);
  plum_buffer_free(&back);
}

static void check_urls(void)
{
  static const char *const bad[] = {"", "127.0.0.1:80", "ftp://x", "http://", "http://a:b",
                                    "http://a:0",
                                    "http://u@h", "http://h/?q", "http://a b", "http://a:70000",
                                    "http://[::1", "http://:80"};
  address where;
  size_t i;
  for (i = 1; i < sizeof bad / sizeof *bad; i++)
    assert(address_parse(bad[i], &where) == PLUM_E_INVALID);
  assert(address_parse("https://[::1]:8443/plum/", &where) == PLUM_OK);
  assert(where.secure && strcmp(where.host, "::1") == 0 && strcmp(where.port, "8443") == 0
         && strcmp(where.netloc, "[::1]:8443") == 0 && strcmp(where.base, "/plum") == 0);
  address_free(&where);
  assert(address_parse("http://plum.local", &where) == PLUM_OK);
  assert(!where.secure && strcmp(where.port, "80") == 0 && *where.base == '\0');
  address_free(&where);
}

/* A loss is spread out: no two of many workers come back in step, and none too late. */
static void check_jitter(void)
{
  chance source = {{5, 6, 7, 8}};
  int64_t drawn[1000], low = INT64_MAX, high = 0, sum = 0;
  int i, tries;
  for (tries = 0; tries < 64; tries++)
    assert(jitter_ms(&source, RETRY_MS_FIRST, tries, RETRY_MS_MAX) <= RETRY_MS_MAX);
  for (i = 0; i < 1000; i++) {
    drawn[i] = jitter_ms(&source, RETRY_MS_FIRST, 20, RETRY_MS_MAX);
    low = earlier(low, drawn[i]);
    high = drawn[i] > high ? drawn[i] : high;
    sum += drawn[i];
  }
  assert(low < 150 && high > RETRY_MS_MAX - 150);
  assert(sum / 1000 > RETRY_MS_MAX * 45 / 100 && sum / 1000 < RETRY_MS_MAX * 55 / 100);
}

static const char three_attempts[] =
    "{\"registered\":{\"leaseSec\":30,\"beatSec\":10},\"attempts\":["
    "{\"id\":\"a1\",\"name\":\"t\"},{\"id\":\"a2\",\"name\":\"t\"},"
    "{\"id\":\"a3\",\"name\":\"t\"}]}";

/* What a journal that was cut off after so many bytes makes of a worker's next life. */
static void check_cut_journal(const char *directory, const plum_buffer *whole, size_t size)
{
  plum_worker *worker = new_worker(directory);
  plum_buffer path = {0};
  plum_attempt *attempt;
  FILE *file;
  plum_buffer_print(&path, "%s/plum.journal", directory);
  file = fopen(path.data, "wb");
  assert(file != NULL && fwrite(whole->data, 1, size, file) == size && fclose(file) == 0);
  assert(worker_begin(worker) == PLUM_OK);
  check_lists(worker);
  assert(worker->running.count == 0 && worker->waiting.count == 0 && worker->session[0] != '\0');
  for (attempt = worker->unsent.first; attempt != NULL; attempt = attempt->after)
    assert(strstr(attempt->report.data, "\"result\":42}") != NULL
           || strstr(attempt->report.data, "\"code\":\"lost\"") != NULL);
  if (size == whole->size_bytes) {
    assert(worker->unsent.count == 2);
    assert(strstr(worker->unsent.first->report.data, "\"a2\",\"result\":42}") != NULL);
    assert(strstr(worker->unsent.last->report.data, "\"a3\",\"error\"") != NULL);
    assert(known_find(worker, "a1") != NULL && known_find(worker, "a1")->attempt == NULL);
  }
  plum_buffer_free(&path);
  plum_worker_free(worker);
}

/* Three attempts are taken; two end, one of them is acknowledged; then the process is gone. */
static void check_journal(const char *directory)
{
  plum_worker *worker = new_worker(directory);
  plum_buffer path = {0}, whole = {0};
  plum_status status;
  size_t at;
  char session[33];
  assert(worker_begin(worker) == PLUM_OK);
  memcpy(session, worker->session, sizeof session);
  hear_copy(worker, three_attempts, sizeof three_attempts - 1, &status);
  assert(status == PLUM_OK && worker->waiting.count == 3 && worker->hold_back);
  journal_sync(worker);
  assert(plum_attempt_finish(worker->waiting.first, "42", 2) == PLUM_OK);
  assert(plum_attempt_finish(worker->waiting.first, "42", 2) == PLUM_OK);
  lock(worker);
  assert(collect(worker, now_ms()));
  unlock(worker);
  worker->sent.last->seq = 2;
  hear_copy(worker, "{\"ack\":1}", 9, &status);
  assert(status == PLUM_OK && worker->figures.results == 1);
  journal_sync(worker);
  plum_buffer_print(&path, "%s/plum.journal", directory);
  assert(read_file(path.data, &whole) && whole.size_bytes > 100);
  (void)close(worker->journal.lock_fd); /* as a kill does */
  worker->journal.lock_fd = -1;
  for (at = 0; at <= whole.size_bytes; at++)
    check_cut_journal(directory, &whole, at);
  { /* whole again: the same session comes back */
    plum_worker *again = new_worker(directory);
    FILE *file = fopen(path.data, "wb");
    assert(file != NULL && fwrite(whole.data, 1, whole.size_bytes, file) == whole.size_bytes);
    assert(fclose(file) == 0 && worker_begin(again) == PLUM_OK);
    assert(strcmp(again->session, session) == 0);
    plum_worker_free(again);
    /* A worker without a name takes the one that the directory remembers. */
    assert(plum_worker_new("http://127.0.0.1:1", &again) == PLUM_OK);
    assert(plum_worker_set_directory(again, directory) == PLUM_OK);
    file = fopen(path.data, "wb");
    assert(file != NULL && fwrite(whole.data, 1, whole.size_bytes, file) == whole.size_bytes);
    assert(fclose(file) == 0 && worker_begin(again) == PLUM_OK);
    assert(strcmp(plum_worker_id(again), "w") == 0 && strcmp(again->session, session) == 0);
    plum_worker_free(again);
    again = new_worker(directory); /* and under another id it is not ours */
    file = fopen(path.data, "wb");
    assert(file != NULL && fwrite(whole.data, 1, whole.size_bytes, file) == whole.size_bytes);
    assert(fclose(file) == 0 && plum_worker_set_id(again, "other") == PLUM_OK);
    assert(worker_begin(again) == PLUM_E_DISK);
    plum_worker_free(again);
  }
  fwrite(whole.data, 1, whole.size_bytes, stdout);
  plum_buffer_free(&path);
  plum_buffer_free(&whole);
  plum_worker_free(worker);
}

/* The journal of a worker that goes on and on stays small. */
static void check_compaction(const char *directory)
{
  plum_worker *worker = new_worker(directory);
  plum_buffer big = {0};
  plum_status status;
  int i;
  for (i = 0; i < 65536; i++)
    add_text(&big, i == 0 || i == 65535 ? "\"" : "x");
  assert(worker_begin(worker) == PLUM_OK);
  worker->registered = 1;
  for (i = 0; i < 100; i++) {
    plum_buffer message = {0};
    plum_buffer_print(&message, "{\"attempts\":[{\"id\":\"b%x\",\"name\":\"t\"}]}", (unsigned)i);
    hear_copy(worker, message.data, message.size_bytes, &status);
    assert(status == PLUM_OK);
    journal_sync(worker);
    assert(plum_attempt_finish(worker->waiting.first, big.data, big.size_bytes) == PLUM_OK);
    lock(worker);
    assert(collect(worker, now_ms()));
    unlock(worker);
    buffer_clear(&message, SIZE_MAX);
    plum_buffer_print(&message, "{\"ack\":%llu}", (unsigned long long)worker->seq);
    hear_copy(worker, message.data, message.size_bytes, &status);
    journal_sync(worker);
    assert(worker->journal.file_bytes < 3 * JOURNAL_DEAD_BYTES);
    plum_buffer_free(&message);
  }
  plum_buffer_free(&big);
  plum_worker_free(worker);
}

/* A worker that remembers many ids tells old attempts from new ones, and forgets the oldest. */
static void check_known(void)
{
  plum_worker *worker = new_worker(NULL);
  plum_status status;
  int i;
  assert(worker_begin(worker) == PLUM_OK);
  worker->registered = 1;
  for (i = 0; i < 2000; i++) {
    plum_buffer message = {0};
    plum_buffer_print(&message, "{\"attempts\":[{\"id\":\"c%x\",\"name\":\"t\"}]}", (unsigned)i);
    hear_copy(worker, message.data, message.size_bytes, &status);
    hear_copy(worker, message.data, message.size_bytes, &status);
    assert(worker->waiting.count == 1);
    assert(plum_attempt_finish(worker->waiting.first, NULL, 0) == PLUM_OK);
    lock(worker);
    assert(collect(worker, now_ms()));
    hear_ack(worker, worker->seq);
    unlock(worker);
    hear_copy(worker, message.data, message.size_bytes, &status);
    assert(worker->waiting.count == 0);
    check_lists(worker);
    plum_buffer_free(&message);
  }
  assert(worker->known_count <= OVER_IDS_MIN && worker->unused.count == 1);
  plum_worker_free(worker);
}

/* Two workers of one process share no directory, and a file that nobody can read is told of. */
static void check_one_directory(const char *directory)
{
  plum_worker *one = new_worker(directory), *two = new_worker(directory);
  assert(worker_begin(one) == PLUM_OK);
  assert(worker_begin(two) == PLUM_E_DISK);
  plum_worker_free(two);
  two = new_worker(directory);
  assert(worker_begin(two) == PLUM_E_DISK);
  plum_worker_free(one);
  plum_worker_free(two);
  two = new_worker(directory);
  assert(worker_begin(two) == PLUM_OK);
  plum_worker_free(two);
}

/* Without the memory for its result an attempt fails: it does not succeed with null. */
static void check_no_memory(void)
{
  plum_worker *worker = new_worker(NULL);
  plum_status status;
  plum_buffer json = {0};
  assert(worker_begin(worker) == PLUM_OK);
  hear_copy(worker, three_attempts, sizeof three_attempts - 1, &status);
  json.failed = 1;
  assert(finish_with(worker->waiting.first, &json) == PLUM_E_MEMORY);
  assert(worker->waiting.count == 2 && worker->unsent.count == 1);
  assert(strstr(worker->unsent.first->report.data, "\"code\":\"out_of_memory\"") != NULL);
  json.failed = 1;
  assert(finish_with(worker->unsent.first, &json) == PLUM_E_STATE);
  { /* and while one thread writes the report no other does */
    plum_attempt *attempt = worker->waiting.first;
    assert(may_end(attempt) && !attempt->ended);
    assert(plum_attempt_finish(attempt, "1", 1) == PLUM_E_STATE);
    assert(plum_attempt_fail(attempt, "x", "y", 0, -1, NULL) == PLUM_E_STATE);
    assert(plum_attempt_stopped(attempt) == PLUM_E_STATE);
    assert(ended(attempt, 0) == PLUM_OK && worker->unsent.count == 2);
    assert(plum_attempt_finish(worker->waiting.first, "{", 1) == PLUM_E_INVALID);
    assert(strstr(worker->unsent.last->report.data, "\"code\":\"invalid_result\"") != NULL);
    assert(strstr(worker->unsent.last->report.data, "\"retry\":false}") != NULL);
  }
  plum_worker_free(worker);
}

static void keep_log(void *context, int level, const char *text)
{
  (void)level;
  add_text(context, text);
}

/* Why the daemon does not want a worker is for its user to read. */
static void check_reason(void)
{
  static const char error[] = "{\"error\":{\"code\":\"invalid\",\"message\":\"too long\"}}";
  plum_worker *worker = new_worker(NULL);
  plum_status status;
  plum_buffer said = {0};
  assert(plum_worker_set_log(worker, keep_log, &said) == PLUM_OK);
  assert(worker_begin(worker) == PLUM_OK);
  hear_copy(worker, error, sizeof error - 1, &status);
  assert(status == PLUM_E_CLOSED && strstr(said.data, "invalid: too long") != NULL);
  plum_buffer_free(&said);
  plum_worker_free(worker);
}

static int listening(struct sockaddr_in *at, int backlog)
{
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  socklen_t size = sizeof *at;
  memset(at, 0, sizeof *at);
  at->sin_family = AF_INET;
  at->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  assert(fd >= 0 && bind(fd, (struct sockaddr *)at, size) == 0 && listen(fd, backlog) == 0);
  assert(getsockname(fd, (struct sockaddr *)at, &size) == 0);
  return fd;
}

/* A name may have an address that leads nowhere, as IPv6 often does: the next one is tried. */
static void check_addresses(void)
{
  struct sockaddr_in silent, good;
  struct addrinfo first, second;
  int full = listening(&silent, 0), well = listening(&good, 5), fill[4], i;
  int64_t begun_ms = now_ms();
  tcp_stream tcp;
  for (i = 0; i < 4; i++) { /* its queue is full: whoever comes now hears nothing */
    fill[i] = socket(AF_INET, SOCK_STREAM, 0);
    assert(set_cloexec_nonblocking(fill[i]));
    (void)connect(fill[i], (struct sockaddr *)&silent, sizeof silent);
  }
  memset(&first, 0, sizeof first);
  first.ai_family = AF_INET;
  first.ai_socktype = SOCK_STREAM;
  first.ai_addrlen = sizeof silent;
  second = first;
  first.ai_addr = (struct sockaddr *)&silent;
  first.ai_next = &second;
  second.ai_addr = (struct sockaddr *)&good;
  memset(&tcp, 0, sizeof tcp);
  tcp.fd = -1;
  tcp.next = &first;
  while (tcp_connect(&tcp) == PLUM_AGAIN) {
    assert(now_ms() < begun_ms + DIAL_MS);
    (void)poll(NULL, 0, 10);
  }
  assert(tcp.connected && tcp.next == NULL);
  (void)close(tcp.fd);
  for (i = 0; i < 4; i++)
    (void)close(fill[i]);
  (void)close(full);
  (void)close(well);
}

/* A device that could not listen has no descriptor left that would wake its loop all the time. */
static void check_listen(void)
{
  struct sockaddr_in taken;
  plum_device *device;
  int fd = listening(&taken, 1);
  assert(plum_device_new("http://127.0.0.1:1", "d", "t", &device) == PLUM_OK);
  assert(plum_device_listen(device, "127.0.0.1", ntohs(taken.sin_port)) == PLUM_E_STATE);
  assert(device->listener == -1 && !device->callbacks);
  assert(plum_device_listen(device, "127.0.0.1", 0) == PLUM_OK);
  (void)close(fd);
  plum_device_free(device);
}

/* What was made before a fork is the child's own behind it: no two tasks under one key, no two
 * workers of one name, no wake-up that the other one reads. */
static void check_fork(void)
{
  plum_client *client;
  plum_worker *worker;
  plum_buffer mine = {0}, theirs = {0};
  int report[2], status;
  pid_t child;
  ssize_t count;
  assert(plum_client_new("http://127.0.0.1:1", &client) == PLUM_OK);
  assert(plum_worker_new("http://127.0.0.1:1", &worker) == PLUM_OK);
  assert(pipe(report) == 0 && (child = fork()) >= 0);
  if (child == 0) {
    add_idempotency_key(client, &theirs);
    if (worker_begin(worker) != PLUM_OK)
      _exit(1);
    plum_buffer_print(&theirs, "%s", plum_worker_id(worker));
    wake_poke(worker->wake, 's');
    _exit(write(report[1], theirs.data, theirs.size_bytes) == (ssize_t)theirs.size_bytes ? 0 : 1);
  }
  assert(buffer_room(&theirs, 512) && waitpid(child, &status, 0) == child && status == 0);
  count = read(report[0], theirs.data, 512);
  assert(count > 0);
  theirs.data[count] = '\0';
  add_idempotency_key(client, &mine);
  assert(strncmp(mine.data, theirs.data, mine.size_bytes) != 0);
  assert(strstr(theirs.data, plum_worker_id(worker)) == NULL);
  assert(worker_begin(worker) == PLUM_OK);
  take_pokes(worker);
  assert(worker->stop_asked == 0);
  (void)close(report[0]);
  (void)close(report[1]);
  plum_buffer_free(&mine);
  plum_buffer_free(&theirs);
  plum_client_free(client);
  plum_worker_free(worker);
}

int main(int argc, char **argv)
{
  if (argc == 3 && strcmp(argv[1], "unit") == 0) {
    check_no_memory();
    check_reason();
    check_addresses();
    check_listen();
    check_fork();
    check_one_directory(argv[2]);
    check_json();
    check_texts();
    check_urls();
    check_jitter();
    check_known();
    check_compaction(argv[2]);
    check_journal(argv[2]);
    return 0;
  }
  if (argc == 4 && strcmp(argv[1], "traffic") == 0) {
    plum_buffer data = {0};
    int kind = kind_of(argv[2]);
    assert(read_file(argv[3], &data));
    if (kind == DOWN) {
      size_t at;
      one_message(data.data, data.size_bytes, 1);
      for (at = 0; at < data.size_bytes; at++)
        one_message(data.data, at, 0);
    } else {
      cut_everywhere(kind, data.data, data.size_bytes);
    }
    plum_buffer_free(&data);
    return 0;
  }
  if (argc > 4 && strcmp(argv[1], "fuzz") == 0) {
    fuzz(atol(argv[2]), argc - 3, argv + 3);
    return 0;
  }
  return 2;
}
#endif
