/* plum.c: the C SDK of Plum; plum.h says what it does, docs/c-sdk.md how it is used.
 *
 * Reading order, one section each:
 *   without I/O:  1 basics  2 text buffers  3 JSON  4 HTTP/1.1  5 WebSocket  6 server-sent events
 *   sockets:      7 transport  8 dialing  9 the client of the API
 *   API:          10 tasks  11 key-value store  12 services
 *   workers:      13 the desk (attempts and results in hand)  14 the journal (results on disk)
 *                 15 what is said and heard  16 the line  17 running  18 attempts
 *   devices:      19
 */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#include "plum.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#ifdef __linux__
#include <sys/file.h>
#endif
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/epoll.h>
#endif

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0
#endif

/* ================================================================== 1 basics */

const char *plum_version(void) { return PLUM_SDK_VERSION; }

const char *plum_status_text(plum_status status)
{
  switch (status) {
  case PLUM_OK: return "fine";
  case PLUM_AGAIN: return "nothing is there yet";
  case PLUM_E_INVALID: return "an argument is wrong";
  case PLUM_E_MEMORY: return "out of memory";
  case PLUM_E_STATE: return "this cannot be done now";
  case PLUM_E_UNREACHABLE: return "nobody answers at the address";
  case PLUM_E_CLOSED: return "the connection ended";
  case PLUM_E_TIMEOUT: return "it took too long";
  case PLUM_E_PROTOCOL: return "the peer sent what cannot be understood";
  case PLUM_E_TOO_LARGE: return "over a bound";
  case PLUM_E_TLS: return "no TLS: no transport for https, or no handshake";
  case PLUM_E_DISK: return "the directory of kept results cannot be used";
  case PLUM_E_NOT_FOUND: return "there is no such thing";
  case PLUM_E_CONFLICT: return "its state does not allow this";
  case PLUM_E_PRECONDITION: return "it has another version";
  case PLUM_E_REJECTED: return "the daemon refused the request";
  case PLUM_E_DENIED: return "the daemon does not allow this";
  case PLUM_E_UNAVAILABLE: return "the daemon cannot do this now";
  case PLUM_E_SERVER: return "the daemon met an error";
  case PLUM_E_REPLACED: return "another process took over this id";
  case PLUM_E_VERSION: return "the daemon speaks another version of the protocol";
  case PLUM_E_CUT_SHORT: return "some attempts were given up";
  }
  return "unknown status";
}

static int64_t now_ms(void)
{
  struct timespec now;
  (void)clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static int64_t now_ns(void)
{
  struct timespec now;
  (void)clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Until then, as poll() wants it: rounded so that nobody wakes too early. */
static int poll_ms(int64_t until_ms, int64_t now)
{
  int64_t left = until_ms - now;
  return left <= 0 ? 0 : left > INT_MAX ? INT_MAX : (int)left;
}

static int64_t earlier(int64_t a, int64_t b) { return a < b ? a : b; }

/* Random numbers: seeded by the system, drawn by xoshiro256**. Source: Blackman and Vigna, 2018. */
typedef struct chance {
  uint64_t state[4];
} chance;

static int chance_seed(chance *source)
{
  int fd = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
  size_t done = 0;
  while (fd >= 0 && done < sizeof source->state) {
    ssize_t count = read(fd, (char *)source->state + done, sizeof source->state - done);
    if (count <= 0 && errno != EINTR)
      break;
    done += count > 0 ? (size_t)count : 0;
  }
  if (fd >= 0)
    (void)close(fd);
  return done == sizeof source->state;
}

static uint64_t rotated(uint64_t x, int bits) { return (x << bits) | (x >> (64 - bits)); }

static uint64_t chance_draw(chance *source)
{
  uint64_t *s = source->state, result = rotated(s[1] * 5, 7) * 9, t = s[1] << 17;
  s[2] ^= s[0];
  s[3] ^= s[1];
  s[1] ^= s[2];
  s[0] ^= s[3];
  s[2] ^= t;
  s[3] = rotated(s[3], 45);
  return result;
}

static void chance_bytes(chance *source, unsigned char *out, size_t count)
{
  size_t i;
  for (i = 0; i < count; i++)
    out[i] = (unsigned char)(chance_draw(source) >> 56);
}

/* Full jitter. Source: Brooker, "Exponential Backoff And Jitter", AWS 2015. */
static int64_t jitter_ms(chance *source, int64_t first_ms, int tries, int64_t max_ms)
{
  int64_t limit = first_ms << (tries < 10 ? tries : 10);
  return (int64_t)(chance_draw(source) % (uint64_t)(earlier(limit, max_ms) + 1));
}

static char *text_copy(const char *text, size_t size)
{
  char *copy;
  if (text == NULL)
    return NULL;
  copy = malloc(size + 1);
  if (copy != NULL) {
    memcpy(copy, text, size);
    copy[size] = '\0';
  }
  return copy;
}

static plum_status text_set(char **place, const char *text)
{
  char *copy = text_copy(text, text == NULL ? 0 : strlen(text));
  if (text != NULL && copy == NULL)
    return PLUM_E_MEMORY;
  free(*place);
  *place = copy;
  return PLUM_OK;
}

static const char *or_empty(const char *text) { return text == NULL ? "" : text; }

/* Whether a text that must be there, and name something, does not. */
static int is_blank(const char *text) { return text == NULL || *text == '\0'; }

static size_t size_of(const char *text, size_t size)
{
  return text == NULL ? 0 : size == PLUM_Z ? strlen(text) : size;
}

static int set_cloexec_nonblocking(int fd)
{
  return fcntl(fd, F_SETFD, FD_CLOEXEC) == 0
         && fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) == 0;
}

/* A pipe by which other threads, and signal handlers, wake a loop up. */
static int wake_open(int wake[2])
{
  return pipe(wake) == 0 && set_cloexec_nonblocking(wake[0]) && set_cloexec_nonblocking(wake[1]);
}

static void wake_close(int wake[2])
{
  int i;
  for (i = 0; i < 2; i++) {
    if (wake[i] >= 0)
      (void)close(wake[i]);
    wake[i] = -1;
  }
}

/* A byte for the loop: w = look, d = drain, s = stop. Safe in signal handlers. */
static void wake_poke(const int wake[2], char what)
{
  int error = errno;
  ssize_t done = write(wake[1], &what, 1);
  (void)done;
  errno = error;
}

/* ================================================================== 2 text buffers */

/* Room for so many bytes and a NUL. */
static int buffer_room(plum_buffer *buffer, size_t more)
{
  size_t need, room;
  char *grown;
  if (buffer->failed || more > (SIZE_MAX >> 2) || buffer->size_bytes > (SIZE_MAX >> 2)) {
    buffer->failed = 1;
    return 0;
  }
  need = buffer->size_bytes + more + 1;
  if (need <= buffer->room_bytes)
    return 1;
  room = buffer->room_bytes < 64 ? 128 : buffer->room_bytes * 2;
  if (room < need)
    room = need;
  grown = realloc(buffer->data, room);
  if (grown == NULL) {
    buffer->failed = 1;
    return 0;
  }
  buffer->data = grown;
  buffer->room_bytes = room;
  return 1;
}

void plum_buffer_add(plum_buffer *buffer, const void *data, size_t size_bytes)
{
  size_t size = size_of(data, size_bytes);
  if (!buffer_room(buffer, size))
    return;
  if (size != 0)
    memcpy(buffer->data + buffer->size_bytes, data, size);
  buffer->size_bytes += size;
  buffer->data[buffer->size_bytes] = '\0';
}

static void add_text(plum_buffer *buffer, const char *text)
{
  plum_buffer_add(buffer, text, strlen(text));
}

void plum_buffer_print(plum_buffer *buffer, const char *format, ...)
{
  va_list words;
  int count;
  va_start(words, format);
  count = vsnprintf(NULL, 0, format, words);
  va_end(words);
  if (count < 0 || !buffer_room(buffer, (size_t)count)) {
    buffer->failed = 1;
    return;
  }
  va_start(words, format);
  (void)vsnprintf(buffer->data + buffer->size_bytes, (size_t)count + 1, format, words);
  va_end(words);
  buffer->size_bytes += (size_t)count;
}

void plum_buffer_free(plum_buffer *buffer)
{
  free(buffer->data);
  memset(buffer, 0, sizeof *buffer);
}

/* Empty it, and give back much memory that it needed once. */
static void buffer_clear(plum_buffer *buffer, size_t keep_bytes)
{
  if (buffer->room_bytes > keep_bytes)
    plum_buffer_free(buffer);
  buffer->size_bytes = 0;
  buffer->failed = 0;
  if (buffer->data != NULL)
    buffer->data[0] = '\0';
}

static void buffer_drop(plum_buffer *buffer, size_t count)
{
  memmove(buffer->data, buffer->data + count, buffer->size_bytes - count);
  buffer->size_bytes -= count;
  buffer->data[buffer->size_bytes] = '\0';
}

/* How many bytes the character there has; 0 when it is not UTF-8. Source: RFC 3629 section 4. */
static size_t utf8_bytes(const unsigned char *at, const unsigned char *end)
{
  size_t left = (size_t)(end - at);
  unsigned char low = 0x80, high = 0xBF;
  if (at[0] < 0x80)
    return 1;
  if (at[0] < 0xC2 || at[0] > 0xF4)
    return 0;
  if (at[0] < 0xE0)
    return left >= 2 && (at[1] & 0xC0) == 0x80 ? 2 : 0;
  if (at[0] == 0xE0)
    low = 0xA0;
  else if (at[0] == 0xED)
    high = 0x9F;
  else if (at[0] == 0xF0)
    low = 0x90;
  else if (at[0] == 0xF4)
    high = 0x8F;
  if (left < 3 || at[1] < low || at[1] > high || (at[2] & 0xC0) != 0x80)
    return 0;
  if (at[0] < 0xF0)
    return 3;
  return left >= 4 && (at[3] & 0xC0) == 0x80 ? 4 : 0;
}

static int is_utf8(const char *text, size_t size)
{
  const unsigned char *at = (const unsigned char *)text, *end = at + size;
  while (at < end) {
    size_t count;
    uint64_t word;
    if (end - at >= 8) {
      memcpy(&word, at, 8);
      if ((word & UINT64_C(0x8080808080808080)) == 0) {
        at += 8;
        continue;
      }
    }
    count = utf8_bytes(at, end);
    if (count == 0)
      return 0;
    at += count;
  }
  return 1;
}

void plum_buffer_add_json(plum_buffer *buffer, const char *text, size_t size_bytes)
{
  size_t size = size_of(text, size_bytes);
  const unsigned char *at = (const unsigned char *)or_empty(text), *end, *from = at;
  static const char escapes[] = "btn?fr";
  if (!buffer_room(buffer, size + 2))
    return;
  plum_buffer_add(buffer, "\"", 1);
  for (end = at + size; at < end;) {
    size_t count = utf8_bytes(at, end);
    if (count == 1 && *at >= 0x20 && *at != '"' && *at != '\\') {
      at++;
      continue;
    }
    if (count > 1) {
      at += count;
      continue;
    }
    plum_buffer_add(buffer, from, (size_t)(at - from));
    if (count == 0)
      add_text(buffer, "\xEF\xBF\xBD");
    else if (*at == '"' || *at == '\\')
      plum_buffer_print(buffer, "\\%c", *at);
    else if (*at >= 8 && *at <= 13 && *at != 11)
      plum_buffer_print(buffer, "\\%c", escapes[*at - 8]);
    else
      plum_buffer_print(buffer, "\\u%04x", *at);
    from = ++at;
  }
  plum_buffer_add(buffer, from, (size_t)(at - from));
  plum_buffer_add(buffer, "\"", 1);
}

void plum_buffer_add_base64(plum_buffer *buffer, const void *data, size_t size_bytes)
{
  static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  const unsigned char *at = data;
  size_t left = size_of(data, size_bytes);
  if (left > (SIZE_MAX >> 3) || !buffer_room(buffer, (left + 2) / 3 * 4)) {
    buffer->failed = 1;
    return;
  }
  for (; left > 0; left = left > 3 ? left - 3 : 0, at += 3) {
    uint32_t bits = (uint32_t)at[0] << 16;
    char four[4];
    if (left > 1)
      bits |= (uint32_t)at[1] << 8;
    if (left > 2)
      bits |= at[2];
    four[0] = digits[bits >> 18];
    four[1] = digits[bits >> 12 & 63];
    four[2] = left > 1 ? digits[bits >> 6 & 63] : '=';
    four[3] = left > 2 ? digits[bits & 63] : '=';
    plum_buffer_add(buffer, four, 4);
  }
}

static int base64_digit(char c)
{
  if (c >= 'A' && c <= 'Z')
    return c - 'A';
  if (c >= 'a' && c <= 'z')
    return c - 'a' + 26;
  if (c >= '0' && c <= '9')
    return c - '0' + 52;
  return c == '+' ? 62 : c == '/' ? 63 : -1;
}

plum_status plum_base64_decode(const char *text, size_t size_bytes, plum_buffer *out)
{
  size_t size = size_of(text, size_bytes), i, j;
  if (size % 4 != 0)
    return PLUM_E_INVALID;
  for (i = 0; i < size; i += 4) {
    uint32_t bits = 0;
    size_t pads = 0;
    unsigned char three[3];
    for (j = 0; j < 4; j++) {
      int digit = base64_digit(text[i + j]);
      if (text[i + j] == '=' && i + 4 == size && j >= 2)
        pads++;
      else if (digit < 0 || pads > 0)
        return PLUM_E_INVALID;
      bits = bits << 6 | (digit < 0 ? 0U : (uint32_t)digit);
    }
    three[0] = (unsigned char)(bits >> 16);
    three[1] = (unsigned char)(bits >> 8 & 255);
    three[2] = (unsigned char)(bits & 255);
    plum_buffer_add(out, three, 3 - pads);
  }
  return out->failed ? PLUM_E_MEMORY : PLUM_OK;
}

/* Every byte but letters, digits and `-._~` (and what `also` names) as %XX. */
static void add_percent(plum_buffer *buffer, const char *text, const char *also)
{
  for (; *text != '\0'; text++) {
    unsigned char c = (unsigned char)*text;
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9')
        || strchr("-._~", c) != NULL || strchr(also, c) != NULL)
      plum_buffer_add(buffer, text, 1);
    else
      plum_buffer_print(buffer, "%%%02X", c);
  }
}

/* `"name":"text"` with a comma before it where one is needed; nothing for NULL. */
static void add_member(plum_buffer *out, const char *name, const char *text)
{
  if (text == NULL)
    return;
  plum_buffer_print(out, "%s\"%s\":", out->data[out->size_bytes - 1] == '{' ? "" : ",", name);
  plum_buffer_add_json(out, text, PLUM_Z);
}

/* A number of milliseconds as seconds. */
static void add_seconds(plum_buffer *out, int64_t ms)
{
  plum_buffer_print(out, "%lld.%03d", (long long)(ms / 1000), (int)(ms % 1000));
}

/* ================================================================== 3 JSON */

static const char *json_space(const char *at, const char *end)
{
  while (at < end && (*at == ' ' || *at == '\n' || *at == '\r' || *at == '\t'))
    at++;
  return at;
}

static int hex_digit(char c)
{
  return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10
         : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* Behind the string that begins there; NULL when it is none. */
static const char *json_skip_string(const char *at, const char *end)
{
  for (at++; at < end;) {
    unsigned char c = (unsigned char)*at;
    size_t count = 1;
    if (c == '"')
      return at + 1;
    if (c == '\\') {
      if (end - at < 2)
        return NULL;
      if (at[1] == 'u') {
        if (end - at < 6 || hex_digit(at[2]) < 0 || hex_digit(at[3]) < 0 || hex_digit(at[4]) < 0
            || hex_digit(at[5]) < 0)
          return NULL;
        count = 6;
      } else if (at[1] == '\0' || strchr("\"\\/bfnrt", at[1]) == NULL) {
        return NULL;
      } else {
        count = 2;
      }
    } else if (c < 0x20) {
      return NULL;
    } else if (c >= 0x80) {
      count = utf8_bytes((const unsigned char *)at, (const unsigned char *)end);
      if (count == 0)
        return NULL;
    }
    at += count;
  }
  return NULL;
}

static const char *json_skip_digits(const char *at, const char *end)
{
  const char *from = at;
  while (at < end && *at >= '0' && *at <= '9')
    at++;
  return at == from ? NULL : at;
}

static const char *json_skip_number(const char *at, const char *end)
{
  if (at < end && *at == '-')
    at++;
  if (at < end && *at == '0')
    at++;
  else
    at = json_skip_digits(at, end);
  if (at != NULL && at < end && *at == '.')
    at = json_skip_digits(at + 1, end);
  if (at != NULL && at < end && (*at == 'e' || *at == 'E')) {
    at++;
    if (at < end && (*at == '+' || *at == '-'))
      at++;
    at = json_skip_digits(at, end);
  }
  return at;
}

static const char *json_skip_word(const char *at, const char *end, const char *word)
{
  size_t size = strlen(word);
  return (size_t)(end - at) >= size && memcmp(at, word, size) == 0 ? at + size : NULL;
}

/* Behind a value that is no container. */
static const char *json_skip_plain(const char *at, const char *end)
{
  switch (*at) {
  case '"': return json_skip_string(at, end);
  case 't': return json_skip_word(at, end, "true");
  case 'f': return json_skip_word(at, end, "false");
  case 'n': return json_skip_word(at, end, "null");
  default: return json_skip_number(at, end);
  }
}

static const char *json_skip_key(const char *at, const char *end)
{
  at = json_space(at, end);
  if (at == end || *at != '"' || (at = json_skip_string(at, end)) == NULL)
    return NULL;
  at = json_space(at, end);
  return at < end && *at == ':' ? at + 1 : NULL;
}

#define JSON_DEPTH_ROOM 256 /* a message has its own levels around a value's */

/* Behind the value that begins at `at`, without recursion; NULL when it is none or is too deep. */
static const char *json_skip(const char *at, const char *end, int depth_max)
{
  char closers[JSON_DEPTH_ROOM];
  int depth = 0;
  for (;;) {
    at = json_space(at, end);
    if (at == end)
      return NULL;
    if (*at == '{' || *at == '[') {
      char closer = *at == '{' ? '}' : ']';
      if (depth == depth_max)
        return NULL;
      closers[depth++] = closer;
      at = json_space(at + 1, end);
      if (at == end)
        return NULL;
      if (*at != closer) {
        if (closer == '}' && (at = json_skip_key(at, end)) == NULL)
          return NULL;
        continue;
      }
    } else if ((at = json_skip_plain(at, end)) == NULL) {
      return NULL;
    } else if (depth == 0) {
      return at;
    } else {
      at = json_space(at, end);
    }
    while (at < end && *at == closers[depth - 1]) {
      at++;
      if (--depth == 0)
        return at;
      at = json_space(at, end);
    }
    if (at == end || *at != ',')
      return NULL;
    at++;
    if (closers[depth - 1] == '}' && (at = json_skip_key(at, end)) == NULL)
      return NULL;
  }
}

/* Behind a string of text that json_skip has been over. */
static const char *json_pass_string(const char *at, const char *end)
{
  const char *back;
  for (at++; (at = memchr(at, '"', (size_t)(end - at))) != NULL; at++) {
    for (back = at; back[-1] == '\\'; back--)
      ;
    if ((at - back) % 2 == 0)
      return at + 1;
  }
  return end;
}

/* Behind a value of text that json_skip has been over: nothing is checked again. */
static const char *json_pass(const char *at, const char *end)
{
  int depth = 0;
  if (*at != '"' && *at != '{' && *at != '[')
    return json_skip_plain(at, end);
  while (at < end) {
    char c = *at;
    if (c == '"') {
      at = json_pass_string(at, end);
    } else {
      depth += (c == '{' || c == '[') - (c == '}' || c == ']');
      at++;
    }
    if (depth == 0)
      return at;
  }
  return end;
}

static plum_json_type json_type_at(char c)
{
  switch (c) {
  case '{': return PLUM_JSON_OBJECT;
  case '[': return PLUM_JSON_ARRAY;
  case '"': return PLUM_JSON_STRING;
  case 'n': return PLUM_JSON_NULL;
  case 't':
  case 'f': return PLUM_JSON_BOOL;
  default: return PLUM_JSON_NUMBER;
  }
}

static plum_status json_parse(const char *text, size_t size, int depth_max, plum_json *value)
{
  const char *end = text + size, *at = json_space(text, end), *behind;
  memset(value, 0, sizeof *value);
  behind = json_skip(at, end, depth_max);
  if (behind == NULL || json_space(behind, end) != end)
    return PLUM_E_INVALID;
  value->text = at;
  value->size_bytes = (size_t)(behind - at);
  value->type = json_type_at(*at);
  return PLUM_OK;
}

plum_status plum_json_parse(const char *text, size_t size_bytes, plum_json *value)
{
  if (text == NULL) {
    memset(value, 0, sizeof *value);
    return PLUM_E_INVALID;
  }
  return json_parse(text, size_of(text, size_bytes), PLUM_DEPTH_MAX, value);
}

plum_json_cursor plum_json_walk(plum_json container)
{
  plum_json_cursor cursor = {NULL, NULL, 0};
  if (container.type == PLUM_JSON_OBJECT || container.type == PLUM_JSON_ARRAY) {
    cursor.at = container.text + 1;
    cursor.end = container.text + container.size_bytes - 1;
    cursor.is_object = container.type == PLUM_JSON_OBJECT;
  }
  return cursor;
}

int plum_json_next(plum_json_cursor *cursor, plum_json *key, plum_json *value)
{
  const char *end = cursor->end, *at = cursor->at, *behind;
  plum_json name = {NULL, 0, PLUM_JSON_NONE};
  if (at == NULL)
    return 0;
  at = json_space(at, end);
  if (at < end && *at == ',')
    at = json_space(at + 1, end);
  if (at == end)
    return 0;
  if (cursor->is_object) {
    behind = json_pass_string(at, end);
    name.text = at;
    name.size_bytes = (size_t)(behind - at);
    name.type = PLUM_JSON_STRING;
    at = json_space(json_space(behind, end) + 1, end);
  }
  behind = json_pass(at, end);
  if (key != NULL)
    *key = name;
  value->text = at;
  value->size_bytes = (size_t)(behind - at);
  value->type = json_type_at(*at);
  cursor->at = behind;
  return 1;
}

plum_json plum_json_member(plum_json object, const char *name)
{
  plum_json_cursor cursor = plum_json_walk(object);
  plum_json key, value, none = {NULL, 0, PLUM_JSON_NONE};
  while (cursor.is_object && plum_json_next(&cursor, &key, &value))
    if (plum_json_is(key, name))
      return value;
  return none;
}

/* The code point of the \uXXXX at `at`, or of the pair there; moves behind it. */
static uint32_t json_escape(const char **at, const char *end)
{
  uint32_t code = 0, low = 0;
  int i;
  for (i = 2; i < 6; i++)
    code = code << 4 | (uint32_t)hex_digit((*at)[i]);
  *at += 6;
  if (code < 0xD800 || code > 0xDFFF)
    return code;
  if (code < 0xDC00 && end - *at >= 6 && (*at)[0] == '\\' && (*at)[1] == 'u') {
    for (i = 2; i < 6; i++)
      low = low << 4 | (uint32_t)hex_digit((*at)[i]);
    if (low >= 0xDC00 && low <= 0xDFFF) {
      *at += 6;
      return 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    }
  }
  return 0xFFFD;
}

static size_t utf8_put(char *out, uint32_t code)
{
  if (code < 0x80) {
    out[0] = (char)code;
    return 1;
  }
  if (code < 0x800) {
    out[0] = (char)(0xC0 | code >> 6);
    out[1] = (char)(0x80 | (code & 63));
    return 2;
  }
  if (code < 0x10000) {
    out[0] = (char)(0xE0 | code >> 12);
    out[1] = (char)(0x80 | (code >> 6 & 63));
    out[2] = (char)(0x80 | (code & 63));
    return 3;
  }
  out[0] = (char)(0xF0 | code >> 18);
  out[1] = (char)(0x80 | (code >> 12 & 63));
  out[2] = (char)(0x80 | (code >> 6 & 63));
  out[3] = (char)(0x80 | (code & 63));
  return 4;
}

plum_status plum_json_text(plum_json value, plum_buffer *out)
{
  const char *at, *end, *from;
  static const char names[] = "bfnrt", means[] = "\b\f\n\r\t";
  if (value.type != PLUM_JSON_STRING) {
    plum_buffer_add(out, value.text, value.size_bytes);
    return out->failed ? PLUM_E_MEMORY : PLUM_OK;
  }
  at = value.text + 1;
  end = at + value.size_bytes - 2;
  for (from = at; at < end; from = at) {
    char utf8[4];
    const char *found;
    while (at < end && *at != '\\')
      at++;
    plum_buffer_add(out, from, (size_t)(at - from));
    if (at == end)
      break;
    if (at[1] == 'u') {
      size_t count = utf8_put(utf8, json_escape(&at, end));
      plum_buffer_add(out, utf8, count);
      continue;
    }
    found = strchr(names, at[1]);
    plum_buffer_add(out, found != NULL ? means + (found - names) : at + 1, 1);
    at += 2;
  }
  if (from >= end)
    plum_buffer_add(out, "", 0);
  return out->failed ? PLUM_E_MEMORY : PLUM_OK;
}

int plum_json_is(plum_json string, const char *text)
{
  size_t size = strlen(text);
  plum_buffer plain = {0};
  int same;
  if (string.type != PLUM_JSON_STRING)
    return 0;
  if (memchr(string.text, '\\', string.size_bytes) == NULL)
    return string.size_bytes == size + 2 && memcmp(string.text + 1, text, size) == 0;
  same = plum_json_text(string, &plain) == PLUM_OK && plain.size_bytes == size
         && memcmp(plain.data, text, size) == 0;
  plum_buffer_free(&plain);
  return same;
}

int64_t plum_json_int(plum_json value, int64_t otherwise)
{
  char digits[32];
  char *end;
  long long number;
  if (value.type != PLUM_JSON_NUMBER)
    return otherwise;
  if (value.size_bytes < sizeof digits) {
    memcpy(digits, value.text, value.size_bytes);
    digits[value.size_bytes] = '\0';
    errno = 0;
    number = strtoll(digits, &end, 10);
    if (*end == '\0' && errno == 0)
      return number;
  }
  {
    double real = plum_json_double(value, 0);
    return real >= -9.0e18 && real <= 9.0e18 ? (int64_t)real : otherwise;
  }
}

/* strtod reads as the locale says: where it stops at the point, it gets its own. */
double plum_json_double(plum_json value, double otherwise)
{
  char few[32], *digits = few, *end = NULL;
  double number;
  if (value.type != PLUM_JSON_NUMBER)
    return otherwise;
  if (value.size_bytes >= sizeof few && (digits = malloc(value.size_bytes + 1)) == NULL)
    return otherwise;
  memcpy(digits, value.text, value.size_bytes);
  digits[value.size_bytes] = '\0';
  number = strtod(digits, &end);
  if (*end == '.') {
    *end = ',';
    number = strtod(digits, &end);
  }
  if (*end != '\0')
    number = otherwise;
  if (digits != few)
    free(digits);
  return number;
}

int plum_json_bool(plum_json value, int otherwise)
{
  return value.type == PLUM_JSON_BOOL ? value.text[0] == 't' : otherwise;
}

/* A copy of what a string says; NULL when memory is out or it is no string. */
static char *json_copy(plum_json value)
{
  plum_buffer plain = {0};
  if (value.type != PLUM_JSON_STRING || plum_json_text(value, &plain) != PLUM_OK) {
    plum_buffer_free(&plain);
    return NULL;
  }
  return plain.data;
}

/* ================================================================== 4 HTTP/1.1 */

#define HEAD_BYTES_MAX 32768
#define HEADERS_MAX 64

enum http_state {
  HTTP_IN_HEAD,
  HTTP_IN_BODY,       /* of known length */
  HTTP_IN_CHUNK_SIZE,
  HTTP_IN_CHUNK,
  HTTP_BEHIND_CHUNK,
  HTTP_IN_TRAILER,
  HTTP_TO_THE_END,    /* of the connection */
  HTTP_OVER,
  HTTP_BROKEN
};

struct plum_http_reader {
  int requests, no_body, status, keeps_alive;
  enum http_state state, after_head;
  plum_buffer head;         /* of a message; then a line of a chunk or trailer */
  plum_buffer line;
  uint64_t left;            /* of the body or chunk */
  const char *method, *target;
  size_t count;
  const char *names[HEADERS_MAX], *values[HEADERS_MAX];
};

plum_status plum_http_reader_new(int requests, plum_http_reader **reader)
{
  *reader = calloc(1, sizeof **reader);
  if (*reader == NULL)
    return PLUM_E_MEMORY;
  (*reader)->requests = requests;
  (*reader)->method = (*reader)->target = "";
  return PLUM_OK;
}

void plum_http_reader_free(plum_http_reader *reader)
{
  if (reader == NULL)
    return;
  plum_buffer_free(&reader->head);
  plum_buffer_free(&reader->line);
  free(reader);
}

void plum_http_reader_begin(plum_http_reader *reader, int no_body)
{
  reader->state = HTTP_IN_HEAD;
  reader->no_body = no_body;
  reader->count = 0;
  reader->status = 0;
  reader->method = reader->target = "";
  buffer_clear(&reader->head, HEAD_BYTES_MAX);
  buffer_clear(&reader->line, HEAD_BYTES_MAX);
}

int plum_http_reader_status(const plum_http_reader *reader) { return reader->status; }
const char *plum_http_reader_method(const plum_http_reader *reader) { return reader->method; }
const char *plum_http_reader_target(const plum_http_reader *reader) { return reader->target; }

const char *plum_http_reader_header(const plum_http_reader *reader, const char *name)
{
  size_t i;
  for (i = 0; i < reader->count; i++)
    if (strcmp(reader->names[i], name) == 0)
      return reader->values[i];
  return NULL;
}

int plum_http_reader_keeps_alive(const plum_http_reader *reader) { return reader->keeps_alive; }

/* Whether a comma list names a token. */
static int names_token(const char *list, const char *token)
{
  size_t size = strlen(token);
  while (list != NULL && *list != '\0') {
    list += strspn(list, " \t,");
    if (strncasecmp(list, token, size) == 0 && strchr(" \t,;", list[size]) != NULL)
      return 1;
    list += strcspn(list, ",");
  }
  return 0;
}

static int is_token(const char *text)
{
  if (*text == '\0')
    return 0;
  for (; *text != '\0'; text++)
    if ((unsigned char)*text <= ' ' || *text == 127 || strchr("()<>@,;:\\\"/[]?={}", *text) != NULL)
      return 0;
  return 1;
}

static int http_start_line(plum_http_reader *reader, char *line)
{
  if (reader->requests) {
    char *target = strchr(line, ' '), *version = target == NULL ? NULL : strchr(target + 1, ' ');
    if (version == NULL)
      return 0;
    *target++ = *version++ = '\0';
    reader->method = line;
    reader->target = target;
    reader->keeps_alive = strcmp(version, "HTTP/1.1") == 0;
    return is_token(line) && *target != '\0' && strncmp(version, "HTTP/1.", 7) == 0
           && (version[7] == '0' || version[7] == '1') && version[8] == '\0';
  }
  if (strncmp(line, "HTTP/1.", 7) != 0 || (line[7] != '0' && line[7] != '1') || line[8] != ' '
      || json_skip_digits(line + 9, line + strlen(line)) != line + 12
      || (line[12] != ' ' && line[12] != '\0'))
    return 0;
  reader->keeps_alive = line[7] == '1';
  reader->status = (line[9] - '0') * 100 + (line[10] - '0') * 10 + (line[11] - '0');
  return reader->status >= 100;
}

static int http_header_line(plum_http_reader *reader, char *line)
{
  char *value = strchr(line, ':'), *end, *at;
  if (value == NULL || reader->count == HEADERS_MAX)
    return 0;
  *value++ = '\0';
  value += strspn(value, " \t");
  for (end = value + strlen(value); end > value && (end[-1] == ' ' || end[-1] == '\t');)
    *--end = '\0';
  for (at = line; *at != '\0'; at++)
    if (*at >= 'A' && *at <= 'Z')
      *at = (char)(*at - 'A' + 'a');
  for (at = value; *at != '\0'; at++)
    if (((unsigned char)*at < ' ' && *at != '\t') || *at == 127)
      return 0;
  reader->names[reader->count] = line;
  reader->values[reader->count++] = value;
  return is_token(line);
}

/* How the body's end is known. Source: RFC 9112 section 6.3. */
static int http_framing(plum_http_reader *reader)
{
  const char *coding = plum_http_reader_header(reader, "transfer-encoding"), *length = NULL;
  const char *connection = plum_http_reader_header(reader, "connection");
  size_t i;
  if (names_token(connection, "close"))
    reader->keeps_alive = 0;
  else if (names_token(connection, "keep-alive"))
    reader->keeps_alive = 1;
  for (i = 0; i < reader->count; i++) {
    if (strcmp(reader->names[i], "content-length") != 0)
      continue;
    if (length != NULL && strcmp(length, reader->values[i]) != 0)
      return 0;
    length = reader->values[i];
  }
  if (length != NULL) {
    const char *end = json_skip_digits(length, length + strlen(length));
    if (end == NULL || *end != '\0' || end - length > 15 || coding != NULL)
      return 0;
    reader->left = strtoull(length, NULL, 10);
  }
  if (coding != NULL && strcasecmp(coding, "chunked") != 0)
    return 0;
  if (reader->no_body
      || (!reader->requests
          && (reader->status < 200 || reader->status == 204 || reader->status == 304)))
    reader->after_head = HTTP_OVER;
  else if (coding != NULL)
    reader->after_head = HTTP_IN_CHUNK_SIZE;
  else if (length != NULL)
    reader->after_head = reader->left > 0 ? HTTP_IN_BODY : HTTP_OVER;
  else
    reader->after_head = reader->requests ? HTTP_OVER : HTTP_TO_THE_END;
  if (reader->after_head == HTTP_TO_THE_END)
    reader->keeps_alive = 0;
  return 1;
}

static int http_head(plum_http_reader *reader)
{
  char *line = reader->head.data, *end;
  int first = 1;
  if (memchr(line, '\0', reader->head.size_bytes) != NULL)
    return 0;
  for (; (end = strstr(line, "\r\n")) != line; line = end + 2, first = 0) {
    if (end == NULL)
      return 0;
    *end = '\0';
    if (strpbrk(line, "\r\n") != NULL)
      return 0;
    if (!(first ? http_start_line(reader, line) : http_header_line(reader, line)))
      return 0;
  }
  return !first && http_framing(reader);
}

/* Takes bytes in up to the end that a line, or a head, has; *done says whether it came. */
static plum_status take_until(plum_buffer *into, const char *data, size_t size, const char *mark,
                              size_t bytes_max, size_t *used, int *done)
{
  size_t mark_size = strlen(mark), from = 0, at = 0;
  *done = 0;
  while (at < size && !*done) {
    const char *feed = memchr(data + at, '\n', size - at);
    at = feed == NULL ? size : (size_t)(feed - data) + 1;
    plum_buffer_add(into, data + from, at - from);
    from = at;
    *done = feed != NULL && into->size_bytes >= mark_size
            && memcmp(into->data + into->size_bytes - mark_size, mark, mark_size) == 0;
    if (into->failed)
      return PLUM_E_MEMORY;
    if (into->size_bytes > bytes_max)
      return PLUM_E_TOO_LARGE;
  }
  *used = at;
  return PLUM_OK;
}

static int chunk_size(const char *line, uint64_t *left)
{
  const char *at = line;
  *left = 0;
  for (; hex_digit(*at) >= 0 && at - line < 15; at++)
    *left = *left << 4 | (uint64_t)hex_digit(*at);
  return at != line && (*at == '\r' || *at == ';' || *at == ' ');
}

/* A line of a chunk's frame or a trailer. */
static plum_status http_line(plum_http_reader *reader, const char *data, size_t size, size_t *used)
{
  int done;
  plum_status status = take_until(&reader->line, data, size, "\n", HEAD_BYTES_MAX, used, &done);
  if (status != PLUM_OK || !done)
    return status;
  switch (reader->state) {
  case HTTP_IN_CHUNK_SIZE:
    if (!chunk_size(reader->line.data, &reader->left))
      return PLUM_E_PROTOCOL;
    reader->state = reader->left > 0 ? HTTP_IN_CHUNK : HTTP_IN_TRAILER;
    break;
  case HTTP_BEHIND_CHUNK:
    if (strcmp(reader->line.data, "\r\n") != 0)
      return PLUM_E_PROTOCOL;
    reader->state = HTTP_IN_CHUNK_SIZE;
    break;
  default:
    if (strcmp(reader->line.data, "\r\n") == 0)
      reader->state = HTTP_OVER;
  }
  buffer_clear(&reader->line, HEAD_BYTES_MAX);
  return PLUM_OK;
}

/* One state's work; PLUM_AGAIN: nothing to tell yet. */
static plum_status http_step(plum_http_reader *reader, const char *data, size_t size, size_t *used,
                             plum_http_event *event, plum_piece *piece)
{
  plum_status status;
  int done;
  switch (reader->state) {
  case HTTP_IN_HEAD:
    status = take_until(&reader->head, data, size, "\r\n\r\n", HEAD_BYTES_MAX, used, &done);
    if (status != PLUM_OK || !done)
      return status == PLUM_OK ? PLUM_AGAIN : status;
    if (!http_head(reader))
      return PLUM_E_PROTOCOL;
    if (!reader->requests && reader->status < 200 && reader->status != 101) {
      plum_http_reader_begin(reader, reader->no_body);
      return PLUM_AGAIN;
    }
    reader->state = reader->after_head;
    *event = PLUM_HTTP_HEAD;
    return PLUM_OK;
  case HTTP_IN_BODY:
  case HTTP_IN_CHUNK:
  case HTTP_TO_THE_END:
    *event = PLUM_HTTP_BODY;
    piece->data = data;
    piece->size_bytes = size;
    if (reader->state != HTTP_TO_THE_END) {
      if (size >= reader->left) {
        piece->size_bytes = (size_t)reader->left;
        reader->state = reader->state == HTTP_IN_BODY ? HTTP_OVER : HTTP_BEHIND_CHUNK;
      }
      reader->left -= piece->size_bytes;
    }
    *used = piece->size_bytes;
    return PLUM_OK;
  case HTTP_IN_CHUNK_SIZE:
  case HTTP_BEHIND_CHUNK:
  case HTTP_IN_TRAILER:
    status = http_line(reader, data, size, used);
    return status == PLUM_OK ? PLUM_AGAIN : status;
  case HTTP_OVER:
  case HTTP_BROKEN:
    break;
  }
  return PLUM_E_STATE;
}

plum_status plum_http_reader_feed(plum_http_reader *reader, const char *data, size_t size_bytes,
                                  size_t *used_bytes, plum_http_event *event, plum_piece *piece)
{
  size_bytes = size_of(data, size_bytes);
  *used_bytes = 0;
  *event = PLUM_HTTP_MORE;
  piece->data = NULL;
  piece->size_bytes = 0;
  while (reader->state != HTTP_OVER) {
    size_t used = 0;
    plum_status status;
    if (*used_bytes == size_bytes)
      return PLUM_OK;
    status = http_step(reader, data + *used_bytes, size_bytes - *used_bytes, &used, event, piece);
    *used_bytes += used;
    if (status == PLUM_AGAIN)
      continue;
    if (status != PLUM_OK)
      reader->state = HTTP_BROKEN;
    return status;
  }
  *event = PLUM_HTTP_END;
  return PLUM_OK;
}

plum_status plum_http_reader_end(plum_http_reader *reader)
{
  int well = reader->state == HTTP_TO_THE_END || reader->state == HTTP_OVER;
  reader->state = well ? HTTP_OVER : HTTP_BROKEN;
  return well ? PLUM_OK : PLUM_E_CLOSED;
}

/* ================================================================== 5 WebSocket */

/* Source: FIPS 180-4. Needed for the handshake alone (RFC 6455 section 4.2.2), not for safety. */
static void sha1_block(uint32_t h[5], const unsigned char *block)
{
  uint32_t w[80], a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];
  int i;
  for (i = 0; i < 16; i++)
    w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16
           | (uint32_t)block[4 * i + 2] << 8 | block[4 * i + 3];
  for (; i < 80; i++) {
    uint32_t x = w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16];
    w[i] = x << 1 | x >> 31;
  }
  for (i = 0; i < 80; i++) {
    uint32_t f = i < 20 ? (b & c) | (~b & d) : i < 40 || i >= 60 ? b ^ c ^ d
                 : (b & c) | (b & d) | (c & d);
    uint32_t k = i < 20 ? 0x5A827999 : i < 40 ? 0x6ED9EBA1 : i < 60 ? 0x8F1BBCDC : 0xCA62C1D6;
    uint32_t next = (a << 5 | a >> 27) + f + e + k + w[i];
    e = d;
    d = c;
    c = b << 30 | b >> 2;
    b = a;
    a = next;
  }
  h[0] += a;
  h[1] += b;
  h[2] += c;
  h[3] += d;
  h[4] += e;
}

/* Of up to 119 bytes. */
static void sha1(const char *text, size_t size, unsigned char out[20])
{
  uint32_t h[5] = {0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0};
  unsigned char blocks[128] = {0};
  size_t total = size < 56 ? 64 : 128, i;
  memcpy(blocks, text, size);
  blocks[size] = 0x80;
  blocks[total - 2] = (unsigned char)(size * 8 >> 8);
  blocks[total - 1] = (unsigned char)(size * 8 & 255);
  for (i = 0; i < total; i += 64)
    sha1_block(h, blocks + i);
  for (i = 0; i < 20; i++)
    out[i] = (unsigned char)(h[i / 4] >> (24 - 8 * (i % 4)) & 255);
}

void plum_ws_request(plum_buffer *out, const char *host, const char *path,
                     const unsigned char key[16], const char *more)
{
  plum_buffer_print(out,
                    "GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                    "Sec-WebSocket-Version: 13\r\n%sSec-WebSocket-Key: ",
                    path, host, or_empty(more));
  plum_buffer_add_base64(out, key, 16);
  add_text(out, "\r\n\r\n");
}

int plum_ws_accepted(const plum_http_reader *reader, const unsigned char key[16])
{
  const char *accept = plum_http_reader_header(reader, "sec-websocket-accept");
  const char *upgrade = plum_http_reader_header(reader, "upgrade");
  plum_buffer text = {0}, wanted = {0};
  unsigned char digest[20];
  int well;
  plum_buffer_add_base64(&text, key, 16);
  add_text(&text, "258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
  if (!text.failed) {
    sha1(text.data, text.size_bytes, digest);
    plum_buffer_add_base64(&wanted, digest, 20);
  }
  well = !wanted.failed && wanted.data != NULL && plum_http_reader_status(reader) == 101
         && accept != NULL && strcmp(accept, wanted.data) == 0 && upgrade != NULL
         && strcasecmp(upgrade, "websocket") == 0
         && names_token(plum_http_reader_header(reader, "connection"), "upgrade");
  plum_buffer_free(&text);
  plum_buffer_free(&wanted);
  return well;
}

static size_t ws_header(unsigned char head[14], plum_ws_event kind, size_t size,
                        const unsigned char mask[4])
{
  size_t at = 2, i;
  head[0] = (unsigned char)(0x80 | kind);
  if (size < 126) {
    head[1] = (unsigned char)(0x80 | size);
  } else if (size < 65536) {
    head[1] = 0x80 | 126;
    head[2] = (unsigned char)(size >> 8);
    head[3] = (unsigned char)(size & 255);
    at = 4;
  } else {
    head[1] = 0x80 | 127;
    for (i = 0; i < 8; i++)
      head[2 + i] = (unsigned char)((uint64_t)size >> (56 - 8 * i) & 255);
    at = 10;
  }
  memcpy(head + at, mask, 4);
  return at + 4;
}

static void ws_mask(char *data, size_t size, const unsigned char mask[4])
{
  uint64_t word, eight;
  size_t i = 0;
  memcpy(&eight, mask, 4);
  memcpy((char *)&eight + 4, mask, 4);
  for (; i + 8 <= size; i += 8) {
    memcpy(&word, data + i, 8);
    word ^= eight;
    memcpy(data + i, &word, 8);
  }
  for (; i < size; i++)
    data[i] = (char)((unsigned char)data[i] ^ mask[i & 3]);
}

void plum_ws_frame(plum_buffer *out, plum_ws_event kind, const char *data, size_t size_bytes,
                   const unsigned char mask[4])
{
  unsigned char head[14];
  size_t size = size_of(data, size_bytes), head_size = ws_header(head, kind, size, mask);
  if (!buffer_room(out, size) || !buffer_room(out, head_size + size))
    return;
  plum_buffer_add(out, head, head_size);
  plum_buffer_add(out, data, size);
  ws_mask(out->data + out->size_bytes - size, size, mask);
}

struct plum_ws_reader {
  size_t message_bytes_max;
  unsigned char head[10];
  size_t head_size, head_wanted;
  uint64_t left;            /* of the frame's content */
  int in_frame, final, kind;
  int message_kind;         /* 0 = no message is under way */
  plum_buffer message, control;
};

plum_status plum_ws_reader_new(size_t message_bytes_max, plum_ws_reader **reader)
{
  *reader = calloc(1, sizeof **reader);
  if (*reader == NULL)
    return PLUM_E_MEMORY;
  (*reader)->message_bytes_max = message_bytes_max;
  (*reader)->head_wanted = 2;
  return PLUM_OK;
}

void plum_ws_reader_free(plum_ws_reader *reader)
{
  if (reader == NULL)
    return;
  plum_buffer_free(&reader->message);
  plum_buffer_free(&reader->control);
  free(reader);
}

/* The frame's head is whole: what it says, and whether it may. Source: RFC 6455 section 5. */
static plum_status ws_head(plum_ws_reader *reader)
{
  const unsigned char *head = reader->head;
  size_t i;
  reader->final = head[0] >> 7;
  reader->kind = head[0] & 15;
  reader->left = head[1] & 127;
  if ((head[0] & 0x70) != 0 || (head[1] & 0x80) != 0)
    return PLUM_E_PROTOCOL;
  if (reader->head_wanted > 2)
    for (reader->left = 0, i = 2; i < reader->head_wanted; i++)
      reader->left = reader->left << 8 | head[i];
  if ((reader->head_wanted == 4 && reader->left < 126)
      || (reader->head_wanted == 10 && (reader->left < 65536 || reader->left >> 63 != 0)))
    return PLUM_E_PROTOCOL;
  if (reader->kind >= 8) {
    if (reader->kind > 10 || !reader->final || reader->left > 125)
      return PLUM_E_PROTOCOL;
    buffer_clear(&reader->control, 256);
  } else {
    if (reader->kind > 2 || (reader->kind == 0) != (reader->message_kind != 0))
      return PLUM_E_PROTOCOL;
    if (reader->left > reader->message_bytes_max - reader->message.size_bytes)
      return PLUM_E_TOO_LARGE;
    if (reader->kind != 0)
      reader->message_kind = reader->kind;
  }
  reader->in_frame = 1;
  return PLUM_OK;
}

static plum_status ws_close(plum_piece *content, int *close_code)
{
  const unsigned char *at = (const unsigned char *)content->data;
  *close_code = 1005;
  if (content->size_bytes == 0)
    return PLUM_OK;
  if (content->size_bytes == 1)
    return PLUM_E_PROTOCOL;
  *close_code = at[0] << 8 | at[1];
  content->data += 2;
  content->size_bytes -= 2;
  return *close_code >= 1000 && is_utf8(content->data, content->size_bytes) ? PLUM_OK
                                                                            : PLUM_E_PROTOCOL;
}

/* The frame has ended: tell it, if it is a control frame or a message's last. */
static plum_status ws_frame_end(plum_ws_reader *reader, plum_ws_event *event, plum_piece *content,
                                int *close_code)
{
  int control = reader->kind >= 8;
  plum_buffer *kept = control ? &reader->control : &reader->message;
  reader->in_frame = 0;
  reader->head_size = 0;
  reader->head_wanted = 2;
  if (!control && !reader->final) {
    if (content->size_bytes != 0)
      plum_buffer_add(kept, content->data, content->size_bytes);
    return kept->failed ? PLUM_E_MEMORY : PLUM_AGAIN;
  }
  if (kept->size_bytes != 0) {
    plum_buffer_add(kept, content->data, content->size_bytes);
    content->data = kept->data;
    content->size_bytes = kept->size_bytes;
  }
  if (kept->failed)
    return PLUM_E_MEMORY;
  *event = (plum_ws_event)(control ? reader->kind : reader->message_kind);
  if (!control)
    reader->message_kind = 0;
  if (*event == PLUM_WS_CLOSE)
    return ws_close(content, close_code);
  if (*event == PLUM_WS_TEXT && !is_utf8(content->data, content->size_bytes))
    return PLUM_E_PROTOCOL;
  return PLUM_OK;
}

plum_status plum_ws_reader_feed(plum_ws_reader *reader, const char *data, size_t size_bytes,
                                size_t *used_bytes, plum_ws_event *event, plum_piece *content,
                                int *close_code)
{
  plum_status status;
  size_t at = 0, count;
  *event = PLUM_WS_MORE;
  *used_bytes = 0;
  size_bytes = size_of(data, size_bytes);
  if (size_bytes == 0)
    return PLUM_OK;
  if (reader->message_kind == 0)
    buffer_clear(&reader->message, 65536);
  for (;;) {
    while (!reader->in_frame) {
      *used_bytes = at;
      if (at == size_bytes)
        return PLUM_OK;
      reader->head[reader->head_size++] = (unsigned char)data[at++];
      if (reader->head_size == 2 && (reader->head[1] & 127) >= 126)
        reader->head_wanted = (reader->head[1] & 127) == 126 ? 4 : 10;
      if (reader->head_size == reader->head_wanted && (status = ws_head(reader)) != PLUM_OK)
        return status;
    }
    count = size_bytes - at < reader->left ? size_bytes - at : (size_t)reader->left;
    content->data = data + at;
    content->size_bytes = count;
    at += count;
    reader->left -= count;
    *used_bytes = at;
    if (reader->left == 0) {
      status = ws_frame_end(reader, event, content, close_code);
      if (status != PLUM_AGAIN)
        return status;
    } else {
      plum_buffer *kept = reader->kind >= 8 ? &reader->control : &reader->message;
      plum_buffer_add(kept, content->data, count);
      return kept->failed ? PLUM_E_MEMORY : PLUM_OK;
    }
  }
}

/* ================================================================== 6 server-sent events */

#define SSE_BYTES_MAX (16 * 1024 * 1024)

struct plum_sse_reader {
  plum_buffer line, name, data, id;
  int has_data, told, after_return;
};

plum_status plum_sse_reader_new(plum_sse_reader **reader)
{
  *reader = calloc(1, sizeof **reader);
  return *reader == NULL ? PLUM_E_MEMORY : PLUM_OK;
}

void plum_sse_reader_free(plum_sse_reader *reader)
{
  if (reader == NULL)
    return;
  plum_buffer_free(&reader->line);
  plum_buffer_free(&reader->name);
  plum_buffer_free(&reader->data);
  plum_buffer_free(&reader->id);
  free(reader);
}

static void sse_forget(plum_sse_reader *reader)
{
  buffer_clear(&reader->name, 4096);
  buffer_clear(&reader->data, 65536);
  reader->has_data = reader->told = 0;
}

/* A line's field. Source: HTML Living Standard, section 9.2.6. */
static void sse_field(plum_sse_reader *reader)
{
  char *line = reader->line.data, *value = strchr(line, ':');
  plum_buffer *into;
  if (value == line)
    return;
  if (value == NULL)
    value = line + strlen(line);
  else
    *value++ = '\0';
  if (*value == ' ')
    value++;
  if (strcmp(line, "data") == 0) {
    if (reader->has_data)
      plum_buffer_add(&reader->data, "\n", 1);
    reader->has_data = 1;
    add_text(&reader->data, value);
    return;
  }
  into = strcmp(line, "event") == 0 ? &reader->name : strcmp(line, "id") == 0 ? &reader->id : NULL;
  if (into != NULL) {
    buffer_clear(into, 4096);
    add_text(into, value);
  }
}

plum_status plum_sse_reader_feed(plum_sse_reader *reader, const char *data, size_t size_bytes,
                                 size_t *used_bytes, plum_sse_event *event)
{
  size_t at = 0;
  size_bytes = size_of(data, size_bytes);
  if (reader->told)
    sse_forget(reader);
  while (at < size_bytes) {
    size_t from = at;
    if (reader->after_return && data[at] == '\n')
      from = ++at;
    reader->after_return = 0;
    while (at < size_bytes && data[at] != '\n' && data[at] != '\r')
      at++;
    plum_buffer_add(&reader->line, data + from, at - from);
    if (reader->line.failed || reader->data.failed || reader->name.failed || reader->id.failed)
      return PLUM_E_MEMORY;
    if (reader->line.size_bytes + reader->data.size_bytes > SSE_BYTES_MAX)
      return PLUM_E_TOO_LARGE;
    if (at == size_bytes)
      break;
    reader->after_return = data[at++] == '\r';
    if (reader->line.size_bytes > 0) {
      sse_field(reader);
      buffer_clear(&reader->line, 65536);
    } else if (reader->has_data) {
      event->name = reader->name.size_bytes > 0 ? reader->name.data : "message";
      event->data = reader->data.data;
      event->id = or_empty(reader->id.data);
      reader->told = 1;
      *used_bytes = at;
      return PLUM_OK;
    } else {
      sse_forget(reader);
    }
  }
  *used_bytes = at;
  return PLUM_AGAIN;
}

/* ================================================================== 7 transport */

#define ADDRESS_MS 500 /* one address of several may be silent so long; then the next is tried */

typedef struct tcp_stream {
  struct addrinfo *addresses, *next;
  int64_t tried_ms;
  int fd, connected;
  int drained;              /* the last read took all that was there */
} tcp_stream;

static void tcp_close(void *stream)
{
  tcp_stream *tcp = stream;
  if (tcp->fd >= 0)
    (void)close(tcp->fd);
  if (tcp->addresses != NULL)
    freeaddrinfo(tcp->addresses);
  free(tcp);
}

static plum_status tcp_open(void *context, const char *host, const char *port, void **stream)
{
  struct addrinfo hints;
  tcp_stream *tcp = calloc(1, sizeof *tcp);
  (void)context;
  if (tcp == NULL)
    return PLUM_E_MEMORY;
  memset(&hints, 0, sizeof hints);
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  tcp->fd = -1;
  if (getaddrinfo(host, port, &hints, &tcp->addresses) != 0) {
    tcp->addresses = NULL;
    tcp_close(tcp);
    return PLUM_E_UNREACHABLE;
  }
  tcp->next = tcp->addresses;
  *stream = tcp;
  return PLUM_OK;
}

/* Begins with the next address; 0 when there is none left. */
static int tcp_try_next(tcp_stream *tcp)
{
  int on = 1;
  while (tcp->next != NULL) {
    struct addrinfo *address = tcp->next;
    tcp->next = address->ai_next;
    tcp->tried_ms = now_ms();
    if (tcp->fd >= 0)
      (void)close(tcp->fd);
    tcp->fd = socket(address->ai_family, address->ai_socktype, address->ai_protocol);
    if (tcp->fd < 0)
      continue;
    (void)setsockopt(tcp->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
#ifdef SO_NOSIGPIPE
    (void)setsockopt(tcp->fd, SOL_SOCKET, SO_NOSIGPIPE, &on, sizeof on);
#endif
    if (!set_cloexec_nonblocking(tcp->fd))
      continue;
    if (connect(tcp->fd, address->ai_addr, address->ai_addrlen) == 0 || errno == EINPROGRESS
        || errno == EINTR)
      return 1;
  }
  return 0;
}

static plum_status tcp_connect(void *stream)
{
  tcp_stream *tcp = stream;
  while (!tcp->connected) {
    int error = ECONNREFUSED;
    socklen_t size = sizeof error;
    struct pollfd ready = {-1, POLLOUT, 0};
    ready.fd = tcp->fd;
    if (tcp->fd >= 0 && poll(&ready, 1, 0) == 0) {
      if (tcp->next == NULL || now_ms() < tcp->tried_ms + ADDRESS_MS)
        return PLUM_AGAIN;
    } else if (tcp->fd >= 0)
      (void)getsockopt(tcp->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error != 0 && !tcp_try_next(tcp))
      return PLUM_E_UNREACHABLE;
    tcp->connected = error == 0;
  }
  return PLUM_OK;
}

static plum_status tcp_status(ssize_t count)
{
  if (count >= 0)
    return PLUM_OK;
  return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR ? PLUM_AGAIN : PLUM_E_CLOSED;
}

static plum_status tcp_read(void *stream, char *data, size_t room_bytes, size_t *count)
{
  tcp_stream *tcp = stream;
  ssize_t got = -1;
  *count = 0;
  if (tcp->drained) {
    tcp->drained = 0; /* so that a second system call need not say it */
    return PLUM_AGAIN;
  }
  got = recv(tcp->fd, data, room_bytes, 0);
  *count = got > 0 ? (size_t)got : 0;
  tcp->drained = got > 0 && (size_t)got < room_bytes;
  return got == 0 ? PLUM_E_CLOSED : tcp_status(got);
}

static plum_status tcp_write(void *stream, const char *data, size_t size_bytes, size_t *count)
{
  ssize_t sent = send(((tcp_stream *)stream)->fd, data, size_bytes, MSG_NOSIGNAL);
  *count = sent > 0 ? (size_t)sent : 0;
  return tcp_status(sent);
}

static int tcp_fd(void *stream) { return ((tcp_stream *)stream)->fd; }

static int tcp_wants(void *stream) { return ((tcp_stream *)stream)->connected ? 0 : PLUM_WRITE; }

const plum_transport *plum_posix_transport(void)
{
  static const plum_transport tcp = {NULL,      tcp_open, tcp_connect, tcp_read,
                                     tcp_write, tcp_fd,   tcp_wants,   tcp_close};
  return &tcp;
}

/* ================================================================== 8 dialing */

/* Where the daemon is, as its URL says. */
typedef struct address {
  char *host, *port, *netloc, *base;
  int secure;
} address;

static void address_free(address *where)
{
  free(where->host);
  free(where->port);
  free(where->netloc);
  free(where->base);
  memset(where, 0, sizeof *where);
}

static int is_clean(const char *text)
{
  for (; *text != '\0'; text++)
    if ((unsigned char)*text <= ' ' || (unsigned char)*text >= 127)
      return 0;
  return 1;
}

static plum_status address_parse(const char *url, address *where)
{
  size_t size, host_size, base_size;
  const char *at, *port;
  memset(where, 0, sizeof *where);
  if (is_blank(url))
    url = getenv("PLUM_SERVER");
  if (is_blank(url))
    url = getenv("CONTROLLER_BASE");
  if (is_blank(url))
    url = "http://127.0.0.1:8080";
  where->secure = strncmp(url, "https://", 8) == 0;
  if (!where->secure && strncmp(url, "http://", 7) != 0)
    return PLUM_E_INVALID;
  at = url + (where->secure ? 8 : 7);
  size = strcspn(at, "/?#");
  if (size == 0 || !is_clean(url) || memchr(at, '@', size) != NULL || strpbrk(at, "?#") != NULL)
    return PLUM_E_INVALID;
  port = where->secure ? "443" : "80";
  host_size = *at == '[' ? strcspn(at, "]") + 1 : strcspn(at, ":/");
  if (host_size > size || (at[host_size] != ':' && host_size != size))
    return PLUM_E_INVALID;
  if (at[host_size] == ':')
    port = at + host_size + 1;
  where->netloc = text_copy(at, size);
  where->host = *at == '[' ? text_copy(at + 1, host_size - 2) : text_copy(at, host_size);
  where->port = text_copy(port, strcspn(port, "/"));
  for (base_size = strlen(at + size); base_size > 0 && at[size + base_size - 1] == '/';)
    base_size--;
  where->base = text_copy(at + size, base_size);
  if (where->netloc == NULL || where->host == NULL || where->port == NULL || where->base == NULL) {
    address_free(where);
    return PLUM_E_MEMORY;
  }
  if (*where->host == '\0' || strspn(where->port, "0123456789") != strlen(where->port)
      || strlen(where->port) > 5 || atol(where->port) < 1 || atol(where->port) > 65535) {
    address_free(where);
    return PLUM_E_INVALID;
  }
  return PLUM_OK;
}

#define RECEIVE_BYTES 65536

/* A connection with what was received and not yet read, and what waits to be sent. */
typedef struct conn {
  const plum_transport *transport;
  void *stream;
  int connected;
  plum_buffer out;
  size_t out_at;
  char *in;
  size_t in_at, in_size;
} conn;

static void conn_close(conn *line)
{
  if (line->stream != NULL)
    line->transport->close(line->stream);
  line->stream = NULL;
  line->connected = 0;
  line->in_at = line->in_size = line->out_at = 0;
  buffer_clear(&line->out, 65536);
}

static void conn_free(conn *line)
{
  conn_close(line);
  plum_buffer_free(&line->out);
  free(line->in);
  line->in = NULL;
}

static plum_status conn_open(conn *line, const plum_transport *transport, const address *where)
{
  conn_close(line);
  if (transport == NULL && where->secure)
    return PLUM_E_TLS;
  line->transport = transport == NULL ? plum_posix_transport() : transport;
  if (line->in == NULL && (line->in = malloc(RECEIVE_BYTES)) == NULL)
    return PLUM_E_MEMORY;
  return line->transport->open(line->transport->context, where->host, where->port, &line->stream);
}

static plum_status conn_connect(conn *line)
{
  plum_status status = line->connected ? PLUM_OK : line->transport->connect(line->stream);
  line->connected = status == PLUM_OK;
  return status;
}

/* Sends what waits. PLUM_AGAIN: some of it waits on. */
static plum_status conn_flush(conn *line)
{
  while (line->out_at < line->out.size_bytes) {
    size_t count = 0;
    plum_status status = line->transport->write(line->stream, line->out.data + line->out_at,
                                                line->out.size_bytes - line->out_at, &count);
    line->out_at += count;
    if (status != PLUM_OK)
      return status;
  }
  line->out_at = 0;
  buffer_clear(&line->out, 262144);
  return PLUM_OK;
}

/* Receives some bytes, when those of before are read. */
static plum_status conn_fill(conn *line)
{
  if (line->in_at < line->in_size)
    return PLUM_OK;
  line->in_at = line->in_size = 0;
  return line->transport->read(line->stream, line->in, RECEIVE_BYTES, &line->in_size);
}

/* What to wait for, as PLUM_READ | PLUM_WRITE. */
static int conn_events(conn *line)
{
  int wants = line->transport->wants(line->stream);
  if (!line->connected)
    return wants == 0 ? PLUM_READ : wants;
  return wants | PLUM_READ | (line->out_at < line->out.size_bytes ? PLUM_WRITE : 0);
}

static short poll_events(int events)
{
  return (short)((events & PLUM_READ ? POLLIN : 0) | (events & PLUM_WRITE ? POLLOUT : 0));
}

/* When to look at it though nothing has come: it may want to try another address. */
static int64_t conn_look_ms(const conn *line, int64_t until_ms, int64_t now)
{
  return line->connected ? until_ms : earlier(until_ms, now + ADDRESS_MS);
}

/* Blocks until the connection may go on. */
static plum_status conn_wait(conn *line, int64_t until_ms)
{
  struct pollfd ready;
  int64_t now = now_ms();
  ready.fd = line->transport->fd(line->stream);
  ready.events = poll_events(conn_events(line));
  ready.revents = 0;
  if (poll(&ready, 1, poll_ms(conn_look_ms(line, until_ms, now), now)) != 0)
    return PLUM_OK;
  return now_ms() < until_ms ? PLUM_OK : PLUM_E_TIMEOUT;
}

/* ================================================================== 9 the client of the API */

#define REPLY_BYTES_MAX (256u * 1024 * 1024)
#define CONNECT_MS 5000
#define RECONNECT_MS_FIRST 250
#define RECONNECT_MS_MAX 5000

struct plum_client {
  address where;
  char *token;
  int timeout_ms;
  const plum_transport *transport;
  conn line;
  plum_http_reader *reader;
  chance source;
  pid_t pid;                /* whose connection and random numbers these are */
  int http_status;
  int64_t retry_after_ms;
  char *code, *detail, *field;
};

struct plum_reply {
  int status;
  plum_buffer body, headers;    /* name NUL value NUL ... */
  plum_json json;
};

static int client_seed(plum_client *client)
{
  client->pid = getpid();
  return chance_seed(&client->source);
}

/* In the child of a fork: the parent goes on with the connection, on which two would mix up their
 * answers, and with the random numbers, which would make one Idempotency-Key of two tasks. */
static int client_fork(plum_client *client)
{
  if (client->line.transport != plum_posix_transport())
    client->line.stream = NULL; /* to close it may say goodbye in the parent's name */
  conn_close(&client->line);
  return client_seed(client);
}

plum_status plum_client_new(const char *url, plum_client **out)
{
  plum_client *client = calloc(1, sizeof *client);
  plum_status status;
  *out = NULL;
  if (client == NULL)
    return PLUM_E_MEMORY;
  client->timeout_ms = 10000;
  client->retry_after_ms = -1;
  status = address_parse(url, &client->where);
  if (status == PLUM_OK)
    status = plum_http_reader_new(0, &client->reader);
  if (status == PLUM_OK && !client_seed(client))
    status = PLUM_E_STATE;
  if (status != PLUM_OK) {
    plum_client_free(client);
    return status;
  }
  *out = client;
  return PLUM_OK;
}

void plum_client_free(plum_client *client)
{
  if (client == NULL)
    return;
  conn_free(&client->line);
  plum_http_reader_free(client->reader);
  address_free(&client->where);
  free(client->token);
  free(client->code);
  free(client->detail);
  free(client->field);
  free(client);
}

plum_status plum_client_set_token(plum_client *client, const char *token)
{
  return token != NULL && !is_clean(token) ? PLUM_E_INVALID : text_set(&client->token, token);
}

plum_status plum_client_set_timeout_ms(plum_client *client, int timeout_ms)
{
  if (timeout_ms <= 0)
    return PLUM_E_INVALID;
  client->timeout_ms = timeout_ms;
  return PLUM_OK;
}

plum_status plum_client_set_transport(plum_client *client, const plum_transport *transport)
{
  conn_close(&client->line);
  client->transport = transport;
  return PLUM_OK;
}

plum_problem plum_client_problem(const plum_client *client)
{
  plum_problem problem;
  problem.http_status = client->http_status;
  problem.code = or_empty(client->code);
  problem.detail = or_empty(client->detail);
  problem.field = or_empty(client->field);
  return problem;
}

int64_t plum_client_retry_after_ms(const plum_client *client) { return client->retry_after_ms; }

/* Retry-After in seconds, as the daemon says it; -1 for anything else. */
static int64_t retry_after_of(const char *text)
{
  size_t size = text == NULL ? 0 : strlen(text);
  if (size == 0 || size > 9 || strspn(text, "0123456789") != size)
    return -1;
  return (int64_t)atol(text) * 1000;
}

static plum_status http_status_of(int status)
{
  if (status >= 200 && status < 300)
    return PLUM_OK;
  switch (status) {
  case 401:
  case 403: return PLUM_E_DENIED;
  case 404: return PLUM_E_NOT_FOUND;
  case 409: return PLUM_E_CONFLICT;
  case 412: return PLUM_E_PRECONDITION;
  case 413: return PLUM_E_TOO_LARGE;
  case 429:
  case 503: return PLUM_E_UNAVAILABLE;
  default: return status < 500 ? PLUM_E_REJECTED : PLUM_E_SERVER;
  }
}

void plum_reply_free(plum_reply *reply)
{
  if (reply == NULL)
    return;
  plum_buffer_free(&reply->body);
  plum_buffer_free(&reply->headers);
  free(reply);
}

int plum_reply_status(const plum_reply *reply) { return reply->status; }

const char *plum_reply_body(const plum_reply *reply, size_t *size_bytes)
{
  if (size_bytes != NULL)
    *size_bytes = reply->body.size_bytes;
  return or_empty(reply->body.data);
}

plum_json plum_reply_json(const plum_reply *reply) { return reply->json; }

const char *plum_reply_header(const plum_reply *reply, const char *name)
{
  size_t at = 0;
  while (at < reply->headers.size_bytes) {
    const char *own = reply->headers.data + at, *value = own + strlen(own) + 1;
    if (strcasecmp(own, name) == 0)
      return value;
    at = (size_t)(value + strlen(value) + 1 - reply->headers.data);
  }
  return NULL;
}

/* The head of a request, and its body. */
static void add_request(plum_buffer *out, const address *where, const char *token,
                        const char *method, const char *path, const char *more, const char *body,
                        size_t size)
{
  plum_buffer_print(out, "%s %s%s HTTP/1.1\r\nHost: %s\r\n", method, where->base, path,
                    where->netloc);
  if (token != NULL)
    plum_buffer_print(out, "Authorization: Bearer %s\r\n", token);
  if (body != NULL)
    plum_buffer_print(out, "Content-Type: application/json\r\nContent-Length: %zu\r\n", size);
  plum_buffer_print(out, "%s\r\n", or_empty(more));
  plum_buffer_add(out, body, body == NULL ? 0 : size);
}

/* Feeds the reader with what was received. PLUM_AGAIN: the answer is not whole yet. */
static plum_status reply_read(conn *line, plum_http_reader *reader, plum_reply *reply)
{
  for (;;) {
    plum_http_event event;
    plum_piece piece;
    size_t used, i;
    plum_status status = plum_http_reader_feed(reader, line->in + line->in_at,
                                               line->in_size - line->in_at, &used, &event, &piece);
    line->in_at += used;
    if (status != PLUM_OK)
      return status;
    if (event == PLUM_HTTP_MORE)
      return PLUM_AGAIN;
    if (event == PLUM_HTTP_HEAD) {
      reply->status = reader->status;
      for (i = 0; i < reader->count; i++) {
        plum_buffer_add(&reply->headers, reader->names[i], strlen(reader->names[i]) + 1);
        plum_buffer_add(&reply->headers, reader->values[i], strlen(reader->values[i]) + 1);
      }
    } else if (event == PLUM_HTTP_BODY) {
      plum_buffer_add(&reply->body, piece.data, piece.size_bytes);
    } else {
      return PLUM_OK;
    }
    if (reply->body.failed || reply->headers.failed)
      return PLUM_E_MEMORY;
    if (reply->body.size_bytes > REPLY_BYTES_MAX)
      return PLUM_E_TOO_LARGE;
  }
}

/* Connects, sends what waits, and receives until the answer is whole. */
static plum_status client_talk(plum_client *client, plum_reply *reply, int64_t until_ms)
{
  conn *line = &client->line;
  int64_t connect_until_ms = earlier(until_ms, now_ms() + CONNECT_MS);
  for (;;) {
    plum_status status = conn_connect(line);
    if (status == PLUM_OK)
      status = conn_flush(line);
    if (status == PLUM_OK || (status == PLUM_AGAIN && line->connected)) {
      status = conn_fill(line);
      if (status == PLUM_OK)
        status = reply_read(line, client->reader, reply);
      else if (status == PLUM_E_CLOSED)
        return plum_http_reader_end(client->reader);
    }
    if (status != PLUM_AGAIN)
      return status;
    status = conn_wait(line, line->connected ? until_ms : connect_until_ms);
    if (status != PLUM_OK)
      return line->connected ? status : PLUM_E_UNREACHABLE;
  }
}

/* Whether the kept connection is still there: nothing may have come while nothing was asked. */
static int conn_is_quiet(conn *line)
{
  struct pollfd ready = {-1, POLLIN, 0};
  if (line->stream == NULL || !line->connected || line->in_at < line->in_size)
    return 0;
  ready.fd = line->transport->fd(line->stream);
  return poll(&ready, 1, 0) == 0;
}

static void client_forget_problem(plum_client *client)
{
  (void)text_set(&client->code, NULL);
  (void)text_set(&client->detail, NULL);
  (void)text_set(&client->field, NULL);
  client->http_status = 0;
  client->retry_after_ms = -1;
}

static plum_status client_once(plum_client *client, plum_reply *reply, const char *method,
                               const char *path, const char *more, const char *body, size_t size,
                               int64_t until_ms, int *kept)
{
  conn *line = &client->line;
  plum_status status = PLUM_OK;
  *kept = conn_is_quiet(line);
  if (!*kept)
    status = conn_open(line, client->transport, &client->where);
  if (status == PLUM_OK) {
    plum_http_reader_begin(client->reader, strcmp(method, "HEAD") == 0);
    buffer_clear(&reply->body, SIZE_MAX);
    buffer_clear(&reply->headers, SIZE_MAX);
    reply->status = 0;
    add_request(&line->out, &client->where, client->token, method, path, more, body, size);
    status = line->out.failed ? PLUM_E_MEMORY : client_talk(client, reply, until_ms);
  }
  if (status != PLUM_OK || !plum_http_reader_keeps_alive(client->reader))
    conn_close(line);
  return status;
}

static plum_status client_call(plum_client *client, const char *method, const char *path,
                               const char *more, const char *body, size_t size, int extra_ms,
                               int may_repeat, plum_reply **out)
{
  plum_reply *reply = calloc(1, sizeof *reply);
  int64_t until_ms = now_ms() + client->timeout_ms + extra_ms;
  plum_status status;
  int kept;
  if (out != NULL)
    *out = NULL;
  if (reply == NULL)
    return PLUM_E_MEMORY;
  if (client->pid != getpid() && !client_fork(client)) {
    plum_reply_free(reply);
    return PLUM_E_STATE;
  }
  client_forget_problem(client);
  status = client_once(client, reply, method, path, more, body, size, until_ms, &kept);
  if (status == PLUM_E_CLOSED && may_repeat && kept)
    status = client_once(client, reply, method, path, more, body, size, until_ms, &kept);
  if (status == PLUM_OK) {
    client->http_status = reply->status;
    status = http_status_of(reply->status);
    if (reply->body.size_bytes > 0)
      (void)json_parse(reply->body.data, reply->body.size_bytes, JSON_DEPTH_ROOM, &reply->json);
    if (status != PLUM_OK) {
      client->code = json_copy(plum_json_member(reply->json, "code"));
      client->detail = json_copy(plum_json_member(reply->json, "detail"));
      client->field = json_copy(plum_json_member(reply->json, "field"));
      client->retry_after_ms = retry_after_of(plum_reply_header(reply, "retry-after"));
    }
  }
  if (status == PLUM_OK && out != NULL)
    *out = reply;
  else
    plum_reply_free(reply);
  return status;
}

plum_status plum_client_call(plum_client *client, const char *method, const char *path,
                             const char *more, const char *body, size_t size_bytes,
                             plum_reply **reply)
{
  int may_repeat;
  if (reply != NULL)
    *reply = NULL;
  if (method == NULL || !is_token(method) || path == NULL || *path != '/' || !is_clean(path))
    return PLUM_E_INVALID;
  may_repeat = strcmp(method, "POST") != 0 && strcmp(method, "PATCH") != 0;
  if (more != NULL && strstr(more, "Idempotency-Key:") != NULL)
    may_repeat = 1;
  return client_call(client, method, path, more, body, size_of(body, size_bytes), 0, may_repeat,
                     reply);
}

/* A POST whose answer has nothing in it that matters, and that may be said twice. */
static plum_status client_post(plum_client *client, const char *path, plum_buffer *body)
{
  plum_status status = body->failed ? PLUM_E_MEMORY
                       : client_call(client, "POST", path, NULL, body->data, body->size_bytes, 0,
                                     1, NULL);
  plum_buffer_free(body);
  return status;
}

/* ================================================================== 10 tasks */

typedef struct member {
  char *name, *json;
} member;

struct plum_order {
  member *members;
  size_t count;
  plum_buffer labels;
};

/* The member of that name says this from now on; NULL takes it out. */
static plum_status order_set(plum_order *order, const char *name, const char *json, size_t size)
{
  size_t i;
  char *copy = text_copy(json, size);
  member *grown;
  if (json != NULL && copy == NULL)
    return PLUM_E_MEMORY;
  for (i = 0; i < order->count && strcmp(order->members[i].name, name) != 0; i++)
    ;
  if (i == order->count && json != NULL) {
    grown = realloc(order->members, (i + 1) * sizeof *grown);
    if (grown != NULL) {
      order->members = grown;
      grown[i].json = NULL;
      grown[i].name = text_copy(name, strlen(name));
    }
    if (grown == NULL || grown[i].name == NULL) {
      free(copy);
      return PLUM_E_MEMORY;
    }
    order->count++;
  }
  if (i < order->count) {
    free(order->members[i].json);
    order->members[i].json = copy;
  }
  return PLUM_OK;
}

plum_status plum_order_new(const char *name, plum_order **out)
{
  plum_order *order = calloc(1, sizeof *order);
  plum_buffer text = {0};
  plum_status status = PLUM_E_MEMORY;
  *out = NULL;
  if (name == NULL) {
    free(order);
    return PLUM_E_INVALID;
  }
  plum_buffer_add_json(&text, name, PLUM_Z);
  if (order != NULL && !text.failed)
    status = order_set(order, "name", text.data, text.size_bytes);
  plum_buffer_free(&text);
  if (status == PLUM_OK)
    *out = order;
  else
    plum_order_free(order);
  return status;
}

void plum_order_free(plum_order *order)
{
  size_t i;
  if (order == NULL)
    return;
  for (i = 0; i < order->count; i++) {
    free(order->members[i].name);
    free(order->members[i].json);
  }
  free(order->members);
  plum_buffer_free(&order->labels);
  free(order);
}

plum_status plum_order_set_payload(plum_order *order, const char *json, size_t size_bytes)
{
  plum_json value;
  if (json != NULL && plum_json_parse(json, size_bytes, &value) != PLUM_OK)
    return PLUM_E_INVALID;
  return order_set(order, "payload", json, size_of(json, size_bytes));
}

plum_status plum_order_set_json(plum_order *order, const char *name, const char *json)
{
  plum_json value;
  if (is_blank(name) || (json != NULL && plum_json_parse(json, PLUM_Z, &value) != PLUM_OK))
    return PLUM_E_INVALID;
  return order_set(order, name, json, size_of(json, PLUM_Z));
}

static plum_status order_set_ms(plum_order *order, const char *name, int64_t ms)
{
  plum_buffer text = {0};
  plum_status status;
  if (ms < 0)
    return PLUM_E_INVALID;
  add_seconds(&text, ms);
  status = text.failed ? PLUM_E_MEMORY : order_set(order, name, text.data, text.size_bytes);
  plum_buffer_free(&text);
  return status;
}

static plum_status order_set_int(plum_order *order, const char *name, int number)
{
  char text[16];
  (void)snprintf(text, sizeof text, "%d", number);
  return order_set(order, name, text, strlen(text));
}

plum_status plum_order_set_priority(plum_order *order, int priority)
{
  return priority < 0 || priority > 9 ? PLUM_E_INVALID
         : order_set_int(order, "priority", priority);
}

plum_status plum_order_set_retries(plum_order *order, int max_retries)
{
  return max_retries < 0 ? PLUM_E_INVALID : order_set_int(order, "maxRetries", max_retries);
}

plum_status plum_order_set_timeout_ms(plum_order *order, int64_t timeout_ms)
{
  return order_set_ms(order, "timeoutSec", timeout_ms);
}

plum_status plum_order_set_queue_timeout_ms(plum_order *order, int64_t timeout_ms)
{
  return order_set_ms(order, "queueTimeoutSec", timeout_ms);
}

plum_status plum_order_set_delay_ms(plum_order *order, int64_t delay_ms)
{
  return order_set_ms(order, "delaySec", delay_ms);
}

plum_status plum_order_set_label(plum_order *order, const char *name, const char *value)
{
  plum_buffer *labels = &order->labels;
  if (name == NULL || value == NULL)
    return PLUM_E_INVALID;
  if (labels->size_bytes > 0)
    labels->size_bytes--;
  add_text(labels, labels->size_bytes == 0 ? "{" : ",");
  plum_buffer_add_json(labels, name, PLUM_Z);
  add_text(labels, ":");
  plum_buffer_add_json(labels, value, PLUM_Z);
  add_text(labels, "}");
  return labels->failed ? PLUM_E_MEMORY
         : order_set(order, "labels", labels->data, labels->size_bytes);
}

static void order_write(const plum_order *order, plum_buffer *out)
{
  const char *comma = "";
  size_t i;
  add_text(out, "{");
  for (i = 0; i < order->count; i++)
    if (order->members[i].json != NULL) {
      add_text(out, comma);
      plum_buffer_add_json(out, order->members[i].name, PLUM_Z);
      add_text(out, ":");
      add_text(out, order->members[i].json);
      comma = ",";
    }
  add_text(out, "}");
}

struct plum_task {
  plum_reply *reply;
  char *id, *result, *error_code, *error_message;
  plum_task_state state;
};

static plum_task_state task_state_of(plum_json text)
{
  static const char *const words[] = {"",        "Queued",    "Pending", "Running", "Retrying",
                                      "Succeeded", "Failed", "Timeout", "Canceled"};
  int i;
  for (i = 1; i <= PLUM_TASK_CANCELED; i++)
    if (plum_json_is(text, words[i]))
      return (plum_task_state)i;
  return PLUM_TASK_UNKNOWN;
}

/* The task that a reply shows. */
static plum_status task_of(plum_status status, plum_reply *reply, plum_task **out)
{
  plum_task *task;
  plum_json id, error, code, result;
  *out = NULL;
  if (status != PLUM_OK)
    return status;
  task = calloc(1, sizeof *task);
  if (task == NULL) {
    plum_reply_free(reply);
    return PLUM_E_MEMORY;
  }
  task->reply = reply;
  id = plum_json_member(reply->json, "taskId");
  task->id = json_copy(id);
  task->state = task_state_of(plum_json_member(reply->json, "state"));
  result = plum_json_member(reply->json, "result");
  task->result = text_copy(result.text, result.size_bytes);
  error = plum_json_member(reply->json, "error");
  code = plum_json_member(error, "code");
  task->error_code = json_copy(code);
  task->error_message = json_copy(plum_json_member(error, "message"));
  if (id.type != PLUM_JSON_STRING)
    status = PLUM_E_PROTOCOL;
  else if (task->id == NULL || (result.text != NULL && task->result == NULL)
           || (code.type == PLUM_JSON_STRING && task->error_code == NULL))
    status = PLUM_E_MEMORY; /* what is left would say something else */
  if (status != PLUM_OK) {
    plum_task_free(task);
    return status;
  }
  *out = task;
  return PLUM_OK;
}

void plum_task_free(plum_task *task)
{
  if (task == NULL)
    return;
  plum_reply_free(task->reply);
  free(task->id);
  free(task->result);
  free(task->error_code);
  free(task->error_message);
  free(task);
}

const char *plum_task_id(const plum_task *task) { return task->id; }
plum_task_state plum_task_get_state(const plum_task *task) { return task->state; }
int plum_task_is_over(const plum_task *task) { return task->state >= PLUM_TASK_SUCCEEDED; }
plum_json plum_task_json(const plum_task *task) { return task->reply->json; }

const char *plum_task_result(const plum_task *task, size_t *size_bytes)
{
  const char *result = task->result == NULL ? "null" : task->result;
  if (size_bytes != NULL)
    *size_bytes = strlen(result);
  return result;
}

const char *plum_task_error_code(const plum_task *task)
{
  return or_empty(task->error_code);
}

const char *plum_task_error_message(const plum_task *task)
{
  return or_empty(task->error_message);
}

/* `Prefer: wait=N`, which the daemon reads in whole seconds, up to 60. */
static int prefer_wait(plum_buffer *more, int64_t wait_ms)
{
  int seconds = wait_ms <= 0 ? 0 : wait_ms > 60000 ? 60 : (int)((wait_ms + 999) / 1000);
  if (seconds > 0)
    plum_buffer_print(more, "Prefer: wait=%d\r\n", seconds);
  return seconds * 1000;
}

static void add_idempotency_key(plum_client *client, plum_buffer *more)
{
  if (client->pid != getpid())
    (void)client_fork(client);
  plum_buffer_print(more, "Idempotency-Key: %016llx%016llx\r\n",
                    (unsigned long long)chance_draw(&client->source),
                    (unsigned long long)chance_draw(&client->source));
}

/* A POST under an Idempotency-Key, said again when its answer was lost. */
static plum_status post_once(plum_client *client, const char *path, const plum_buffer *body,
                             int64_t wait_ms, plum_reply **reply)
{
  plum_buffer more = {0};
  plum_status status;
  int extra_ms = prefer_wait(&more, wait_ms), tries;
  add_idempotency_key(client, &more);
  status = body->failed || more.failed ? PLUM_E_MEMORY : PLUM_E_CLOSED;
  for (tries = 0; tries < 2 && status == PLUM_E_CLOSED; tries++)
    status = client_call(client, "POST", path, more.data, body->data, body->size_bytes, extra_ms,
                         1, reply);
  plum_buffer_free(&more);
  return status;
}

plum_status plum_task_submit(plum_client *client, const plum_order *order, int wait_ms,
                             plum_task **task)
{
  plum_buffer body = {0};
  plum_reply *reply = NULL;
  plum_status status;
  order_write(order, &body);
  status = post_once(client, "/v1/tasks", &body, wait_ms, &reply);
  plum_buffer_free(&body);
  return task_of(status, reply, task);
}

static plum_status task_call(plum_client *client, const char *method, const char *task_id,
                             const char *query, int64_t wait_ms, plum_task **task)
{
  plum_buffer path = {0}, more = {0};
  plum_reply *reply = NULL;
  int extra_ms;
  plum_status status;
  *task = NULL;
  if (is_blank(task_id))
    return PLUM_E_INVALID;
  extra_ms = prefer_wait(&more, wait_ms);
  add_text(&path, "/v1/tasks/");
  add_percent(&path, task_id, "");
  add_text(&path, query);
  status = path.failed || more.failed ? PLUM_E_MEMORY
           : client_call(client, method, path.data, more.data, *query != '\0' ? "" : NULL, 0,
                         extra_ms, 1, &reply);
  plum_buffer_free(&path);
  plum_buffer_free(&more);
  return task_of(status, reply, task);
}

plum_status plum_task_get(plum_client *client, const char *task_id, plum_task **task)
{
  return task_call(client, "GET", task_id, "", 0, task);
}

/* Whether the same question may fare better later, when the daemon is back. */
static int may_pass(plum_status status)
{
  return status == PLUM_E_UNREACHABLE || status == PLUM_E_CLOSED || status == PLUM_E_TIMEOUT
         || status == PLUM_E_UNAVAILABLE || status == PLUM_E_SERVER;
}

plum_status plum_task_wait(plum_client *client, const char *task_id, int timeout_ms,
                           plum_task **task)
{
  int64_t until_ms = now_ms() + timeout_ms, now;
  plum_status status;
  int tries = 0;
  for (*task = NULL;;) {
    plum_task_free(*task);
    status = task_call(client, "GET", task_id, "", until_ms - now_ms(), task);
    now = now_ms();
    if (status == PLUM_OK) {
      if (plum_task_is_over(*task))
        return PLUM_OK;
      if (now >= until_ms)
        return PLUM_E_TIMEOUT;
      tries = 0;
    } else if (!may_pass(status) || now >= until_ms) {
      return status;
    } else {
      int64_t pause_ms = jitter_ms(&client->source, RECONNECT_MS_FIRST, tries++, RECONNECT_MS_MAX);
      (void)poll(NULL, 0, poll_ms(earlier(until_ms, now + pause_ms), now));
    }
  }
}

plum_status plum_task_cancel(plum_client *client, const char *task_id, int wait_ms,
                             plum_task **task)
{
  return task_call(client, "POST", task_id, "?action=cancel", wait_ms, task);
}

/* What became of one order. */
typedef struct bulk_item {
  int status;
  char *id, *code, *detail, *field;
} bulk_item;

struct plum_bulk {
  plum_buffer body;
  size_t orders, count;
  bulk_item *items;
};

plum_status plum_bulk_new(plum_bulk **bulk)
{
  *bulk = calloc(1, sizeof **bulk);
  return *bulk == NULL ? PLUM_E_MEMORY : PLUM_OK;
}

static void bulk_forget(plum_bulk *bulk)
{
  size_t i;
  for (i = 0; i < bulk->count; i++) {
    free(bulk->items[i].id);
    free(bulk->items[i].code);
    free(bulk->items[i].detail);
    free(bulk->items[i].field);
  }
  free(bulk->items);
  bulk->items = NULL;
  bulk->count = 0;
}

/* Either the id of a task or what was wrong. */
static plum_status bulk_read(plum_json answer, bulk_item *item)
{
  plum_json error = plum_json_member(answer, "error");
  item->id = json_copy(plum_json_member(answer, "taskId"));
  if (error.type == PLUM_JSON_OBJECT) {
    item->status = (int)plum_json_int(plum_json_member(error, "status"), 0);
    item->code = json_copy(plum_json_member(error, "code"));
    item->detail = json_copy(plum_json_member(error, "detail"));
    item->field = json_copy(plum_json_member(error, "field"));
  }
  return item->id != NULL || item->code != NULL ? PLUM_OK : PLUM_E_MEMORY;
}

void plum_bulk_free(plum_bulk *bulk)
{
  if (bulk == NULL)
    return;
  bulk_forget(bulk);
  plum_buffer_free(&bulk->body);
  free(bulk);
}

plum_status plum_bulk_add(plum_bulk *bulk, const plum_order *order)
{
  if (bulk->orders == 10000)
    return PLUM_E_TOO_LARGE;
  add_text(&bulk->body, bulk->orders == 0 ? "{\"tasks\":[" : ",");
  order_write(order, &bulk->body);
  bulk->orders++;
  return bulk->body.failed ? PLUM_E_MEMORY : PLUM_OK;
}

plum_status plum_bulk_submit(plum_client *client, plum_bulk *bulk)
{
  plum_reply *reply = NULL;
  plum_json_cursor items;
  plum_json item;
  plum_status status;
  bulk_forget(bulk);
  if (bulk->orders == 0)
    return PLUM_OK;
  add_text(&bulk->body, "]}");
  status = post_once(client, "/v1/tasks/bulk", &bulk->body, 0, &reply);
  if (!bulk->body.failed)
    bulk->body.size_bytes -= 2;
  if (status != PLUM_OK)
    return status;
  bulk->items = calloc(bulk->orders, sizeof *bulk->items);
  if (bulk->items == NULL) {
    plum_reply_free(reply);
    return PLUM_E_MEMORY;
  }
  items = plum_json_walk(plum_json_member(reply->json, "results"));
  while (status == PLUM_OK && bulk->count < bulk->orders && plum_json_next(&items, NULL, &item))
    status = bulk_read(item, &bulk->items[bulk->count++]);
  plum_reply_free(reply);
  return status == PLUM_OK && bulk->count != bulk->orders ? PLUM_E_PROTOCOL : status;
}

size_t plum_bulk_size(const plum_bulk *bulk) { return bulk->count; }

const char *plum_bulk_task_id(const plum_bulk *bulk, size_t index)
{
  return index < bulk->count ? or_empty(bulk->items[index].id) : "";
}

const char *plum_bulk_error_code(const plum_bulk *bulk, size_t index)
{
  return index < bulk->count ? or_empty(bulk->items[index].code) : "";
}

plum_problem plum_bulk_problem(const plum_bulk *bulk, size_t index)
{
  static const bulk_item none = {0, NULL, NULL, NULL, NULL};
  const bulk_item *item = index < bulk->count ? &bulk->items[index] : &none;
  plum_problem problem;
  problem.http_status = item->status;
  problem.code = or_empty(item->code);
  problem.detail = or_empty(item->detail);
  problem.field = or_empty(item->field);
  return problem;
}

/* ================================================================== 11 key-value store */

struct plum_kv_list {
  plum_kv_entry *entries;
  size_t count, room;
};

static void entry_free(plum_kv_entry *entry)
{
  free((char *)(uintptr_t)entry->key);
  free((char *)(uintptr_t)entry->value);
  free((char *)(uintptr_t)entry->type);
  memset(entry, 0, sizeof *entry);
}

void plum_kv_list_free(plum_kv_list *list)
{
  size_t i;
  if (list == NULL)
    return;
  for (i = 0; i < list->count; i++)
    entry_free(&list->entries[i]);
  free(list->entries);
  free(list);
}

size_t plum_kv_list_size(const plum_kv_list *list) { return list->count; }

const plum_kv_entry *plum_kv_list_at(const plum_kv_list *list, size_t index)
{
  return index < list->count ? &list->entries[index] : NULL;
}

/* The entry that an object describes; PLUM_E_PROTOCOL when it describes none. */
static plum_status entry_of(plum_json object, plum_kv_entry *entry)
{
  plum_json type = plum_json_member(object, "type");
  plum_buffer value = {0};
  memset(entry, 0, sizeof *entry);
  if (plum_json_text(plum_json_member(object, "value"), &value) != PLUM_OK)
    return PLUM_E_MEMORY;
  plum_buffer_add(&value, "", 0);
  entry->value = value.data;
  entry->value_bytes = value.size_bytes;
  entry->key = json_copy(plum_json_member(object, "key"));
  entry->type = type.type == PLUM_JSON_STRING ? json_copy(type) : text_copy("string", 6);
  entry->version = plum_json_int(plum_json_member(object, "version"), 0);
  entry->updated_ms = plum_json_int(plum_json_member(object, "updatedAt"), 0);
  entry->expires_ms = plum_json_int(plum_json_member(object, "expiresAt"), 0);
  entry->deleted = plum_json_bool(plum_json_member(object, "deleted"), 0);
  if (entry->key != NULL && entry->value != NULL && entry->type != NULL)
    return PLUM_OK;
  entry_free(entry);
  return object.type == PLUM_JSON_OBJECT ? PLUM_E_PROTOCOL : PLUM_E_MEMORY;
}

static plum_status list_push(plum_kv_list *list, plum_json object)
{
  plum_status status;
  if (list->count == list->room) {
    size_t room = list->room == 0 ? 8 : list->room * 2;
    plum_kv_entry *grown = realloc(list->entries, room * sizeof *grown);
    if (grown == NULL)
      return PLUM_E_MEMORY;
    list->entries = grown;
    list->room = room;
  }
  status = entry_of(object, &list->entries[list->count]);
  list->count += status == PLUM_OK;
  return status;
}

/* The list that a reply shows: of the items of an array, or of one object. */
static plum_status list_of(plum_status status, plum_reply *reply, plum_kv_list **out)
{
  plum_kv_list *list;
  plum_json item;
  *out = NULL;
  if (status != PLUM_OK)
    return status;
  list = calloc(1, sizeof *list);
  status = list == NULL ? PLUM_E_MEMORY : PLUM_OK;
  if (status == PLUM_OK && reply->json.type == PLUM_JSON_ARRAY) {
    plum_json_cursor cursor = plum_json_walk(reply->json);
    while (status == PLUM_OK && plum_json_next(&cursor, NULL, &item))
      status = list_push(list, item);
  } else if (status == PLUM_OK) {
    status = list_push(list, reply->json);
  }
  plum_reply_free(reply);
  if (status == PLUM_OK)
    *out = list;
  else
    plum_kv_list_free(list);
  return status;
}

static int is_space(const char *name) { return !is_blank(name) && strchr(name, '/') == NULL; }

/* /v1/kv/{space}[/{key}]; keys keep their slashes. What ends in /keys is the list of all names, so
 * the key of that name is written otherwise. */
static plum_status kv_path(plum_buffer *path, const char *space, const char *key)
{
  if (!is_space(space) || (key != NULL && *key == '\0'))
    return PLUM_E_INVALID;
  add_text(path, "/v1/kv/");
  add_percent(path, space, "");
  if (key != NULL) {
    add_text(path, "/");
    add_percent(path, strcmp(key, "keys") == 0 ? "" : key, "/");
    add_text(path, strcmp(key, "keys") == 0 ? "%6Beys" : "");
  }
  return path->failed ? PLUM_E_MEMORY : PLUM_OK;
}

plum_status plum_kv_get(plum_client *client, const char *space, const char *key,
                        plum_kv_list **list)
{
  plum_buffer path = {0};
  plum_reply *reply = NULL;
  plum_status status = key == NULL ? PLUM_E_INVALID : kv_path(&path, space, key);
  if (status == PLUM_OK)
    status = client_call(client, "GET", path.data, NULL, NULL, 0, 0, 1, &reply);
  plum_buffer_free(&path);
  return list_of(status, reply, list);
}

plum_status plum_kv_list_get(plum_client *client, const char *space, const char *prefix,
                             plum_kv_list **list)
{
  plum_buffer path = {0};
  plum_reply *reply = NULL;
  plum_status status = kv_path(&path, space, NULL);
  if (status == PLUM_OK && prefix != NULL && *prefix != '\0') {
    add_text(&path, "?prefix=");
    add_percent(&path, prefix, "");
  }
  if (status == PLUM_OK)
    status = path.failed ? PLUM_E_MEMORY
             : client_call(client, "GET", path.data, NULL, NULL, 0, 0, 1, &reply);
  plum_buffer_free(&path);
  return list_of(status, reply, list);
}

/* `"value":...` and what goes with it. */
static void kv_write(plum_buffer *out, const char *value, size_t size, const char *type,
                     int64_t ttl_ms)
{
  add_text(out, "\"value\":");
  plum_buffer_add_json(out, value, size_of(value, size));
  add_member(out, "type", type);
  if (ttl_ms > 0) {
    add_text(out, ",\"ttlSec\":");
    add_seconds(out, ttl_ms);
  }
}

/* If-Match, or If-None-Match for what must not exist; nothing for PLUM_ANY_VERSION. */
static void kv_condition(plum_buffer *more, int64_t if_version)
{
  if (if_version > 0)
    plum_buffer_print(more, "If-Match: \"%lld\"\r\n", (long long)if_version);
  else if (if_version == 0)
    add_text(more, "If-None-Match: *\r\n");
}

plum_status plum_kv_cas(plum_client *client, const char *space, const char *key,
                        int64_t if_version, const char *value, size_t size_bytes,
                        const char *type, int64_t ttl_ms, int64_t *version)
{
  plum_buffer path = {0}, body = {0}, more = {0};
  plum_reply *reply = NULL;
  plum_status status = key == NULL || value == NULL || ttl_ms < 0 || if_version < PLUM_ANY_VERSION
                           ? PLUM_E_INVALID : kv_path(&path, space, key);
  kv_condition(&more, if_version);
  if (status == PLUM_OK) {
    add_text(&body, "{");
    kv_write(&body, value, size_bytes, type, ttl_ms);
    add_text(&body, "}");
    status = body.failed || more.failed ? PLUM_E_MEMORY
             : client_call(client, "PUT", path.data, more.data, body.data, body.size_bytes, 0,
                           if_version == PLUM_ANY_VERSION, &reply);
  }
  if (status == PLUM_OK && version != NULL)
    *version = plum_json_int(plum_json_member(reply->json, "version"), 0);
  plum_reply_free(reply);
  plum_buffer_free(&path);
  plum_buffer_free(&body);
  plum_buffer_free(&more);
  return status;
}

plum_status plum_kv_put(plum_client *client, const char *space, const char *key,
                        const char *value, size_t size_bytes, const char *type, int64_t ttl_ms,
                        int64_t *version)
{
  return plum_kv_cas(client, space, key, PLUM_ANY_VERSION, value, size_bytes, type, ttl_ms,
                     version);
}

plum_status plum_kv_put_bytes(plum_client *client, const char *space, const char *key,
                              const void *data, size_t size_bytes, int64_t *version)
{
  plum_buffer text = {0};
  plum_status status;
  if (data == NULL && size_bytes > 0)
    return PLUM_E_INVALID;
  plum_buffer_add_base64(&text, data, size_bytes);
  status = text.failed ? PLUM_E_MEMORY
           : plum_kv_put(client, space, key, or_empty(text.data), text.size_bytes,
                         "bytes", 0, version);
  plum_buffer_free(&text);
  return status;
}

/* What is at version 0 is not there: it is not deleted by that. */
static int may_delete(int64_t if_version)
{
  return if_version == PLUM_ANY_VERSION || if_version > 0;
}

plum_status plum_kv_delete(plum_client *client, const char *space, const char *key,
                           int64_t if_version)
{
  plum_buffer path = {0}, more = {0};
  plum_status status = key == NULL || !may_delete(if_version) ? PLUM_E_INVALID
                       : kv_path(&path, space, key);
  kv_condition(&more, if_version);
  if (status == PLUM_OK)
    status = more.failed ? PLUM_E_MEMORY
             : client_call(client, "DELETE", path.data, more.data, NULL, 0, 0,
                           if_version == PLUM_ANY_VERSION, NULL);
  if (status == PLUM_E_NOT_FOUND && if_version == PLUM_ANY_VERSION)
    status = PLUM_OK; /* what is not there is deleted */
  plum_buffer_free(&path);
  plum_buffer_free(&more);
  return status;
}

struct plum_kv_batch {
  plum_buffer body;
};

plum_status plum_kv_batch_new(plum_kv_batch **batch)
{
  *batch = calloc(1, sizeof **batch);
  return *batch == NULL ? PLUM_E_MEMORY : PLUM_OK;
}

void plum_kv_batch_free(plum_kv_batch *batch)
{
  if (batch != NULL)
    plum_buffer_free(&batch->body);
  free(batch);
}

static void batch_key(plum_buffer *body, const char *key, int64_t if_version)
{
  add_text(body, body->size_bytes == 0 ? "{\"items\":[{\"key\":" : ",{\"key\":");
  plum_buffer_add_json(body, key, PLUM_Z);
  if (if_version != PLUM_ANY_VERSION)
    plum_buffer_print(body, ",\"ifVersion\":%lld", (long long)if_version);
  add_text(body, ",");
}

plum_status plum_kv_batch_put(plum_kv_batch *batch, const char *key, const char *value,
                              size_t size_bytes, const char *type, int64_t ttl_ms,
                              int64_t if_version)
{
  if (is_blank(key) || value == NULL || ttl_ms < 0 || if_version < PLUM_ANY_VERSION)
    return PLUM_E_INVALID;
  batch_key(&batch->body, key, if_version);
  kv_write(&batch->body, value, size_bytes, type, ttl_ms);
  add_text(&batch->body, "}");
  return batch->body.failed ? PLUM_E_MEMORY : PLUM_OK;
}

plum_status plum_kv_batch_delete(plum_kv_batch *batch, const char *key, int64_t if_version)
{
  if (is_blank(key) || !may_delete(if_version))
    return PLUM_E_INVALID;
  batch_key(&batch->body, key, if_version);
  add_text(&batch->body, "\"delete\":true}");
  return batch->body.failed ? PLUM_E_MEMORY : PLUM_OK;
}

plum_status plum_kv_batch_commit(plum_client *client, const char *space, plum_kv_batch *batch)
{
  plum_buffer path = {0}, *body = &batch->body;
  plum_status status = kv_path(&path, space, "batch");
  if (status != PLUM_OK)
    return status;
  if (body->size_bytes == 0)
    add_text(body, "{\"items\":[");
  add_text(body, "]}");
  status = body->failed ? PLUM_E_MEMORY
           : client_call(client, "POST", path.data, NULL, body->data, body->size_bytes, 0, 0,
                         NULL);
  plum_buffer_free(&path);
  buffer_clear(body, 65536);
  return status;
}

#define WATCH_QUIET_MS 40000 /* the daemon says something each 15 s */

/* A key that the watcher was told of, with its version; seen: in the newest list. */
typedef struct watched {
  char *key;
  int64_t version;
  int seen;
} watched;

struct plum_kv_watch {
  plum_client *client;      /* for the lists; its address, for the stream */
  char *space, *prefix;
  conn line;
  plum_http_reader *http;
  plum_sse_reader *sse;
  plum_piece rest;          /* of a piece of the body that was not read yet */
  int open, tries, current;
  int64_t retry_ms, heard_ms;
  watched *keys;            /* by key */
  size_t count, room;
  plum_kv_list *list;       /* what is to be told of the newest list */
  size_t list_at, gone_at;
  plum_kv_entry entry;      /* what was told last */
};

plum_status plum_kv_watch_new(const plum_client *client, const char *space, const char *prefix,
                              plum_kv_watch **out)
{
  plum_kv_watch *watch;
  plum_buffer url = {0};
  plum_status status;
  *out = NULL;
  if (!is_space(space))
    return PLUM_E_INVALID;
  if ((watch = calloc(1, sizeof *watch)) == NULL)
    return PLUM_E_MEMORY;
  plum_buffer_print(&url, "%s://%s%s", client->where.secure ? "https" : "http",
                    client->where.netloc, client->where.base);
  status = url.failed ? PLUM_E_MEMORY : plum_client_new(url.data, &watch->client);
  plum_buffer_free(&url);
  if (status == PLUM_OK) {
    watch->client->transport = client->transport;
    watch->client->timeout_ms = client->timeout_ms;
    status = text_set(&watch->client->token, client->token);
  }
  if (status == PLUM_OK)
    status = text_set(&watch->space, space);
  if (status == PLUM_OK)
    status = text_set(&watch->prefix, or_empty(prefix));
  if (status == PLUM_OK)
    status = plum_http_reader_new(0, &watch->http);
  if (status == PLUM_OK)
    *out = watch;
  else
    plum_kv_watch_free(watch);
  return status;
}

void plum_kv_watch_free(plum_kv_watch *watch)
{
  size_t i;
  if (watch == NULL)
    return;
  for (i = 0; i < watch->count; i++)
    free(watch->keys[i].key);
  free(watch->keys);
  conn_free(&watch->line);
  plum_http_reader_free(watch->http);
  plum_sse_reader_free(watch->sse);
  plum_kv_list_free(watch->list);
  entry_free(&watch->entry);
  plum_client_free(watch->client);
  free(watch->space);
  free(watch->prefix);
  free(watch);
}

int plum_kv_watch_is_current(const plum_kv_watch *watch) { return watch->current; }

/* Where the key is, or would be. */
static size_t watch_find(const plum_kv_watch *watch, const char *key)
{
  size_t low = 0, high = watch->count;
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    if (strcmp(watch->keys[middle].key, key) < 0)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

static void watch_forget(plum_kv_watch *watch, size_t at)
{
  free(watch->keys[at].key);
  memmove(watch->keys + at, watch->keys + at + 1, (--watch->count - at) * sizeof *watch->keys);
}

/* Whether an entry is news; then it is noted. */
static plum_status watch_note(plum_kv_watch *watch, const plum_kv_entry *entry, int listed)
{
  size_t at = watch_find(watch, entry->key);
  int there = at < watch->count && strcmp(watch->keys[at].key, entry->key) == 0;
  if (there) {
    watch->keys[at].seen = watch->keys[at].seen || listed;
    if (entry->version != 0 && entry->version <= watch->keys[at].version)
      return PLUM_AGAIN;
    if (entry->deleted)
      watch_forget(watch, at);
    else
      watch->keys[at].version = entry->version;
    return PLUM_OK;
  }
  if (entry->deleted)
    return PLUM_AGAIN;
  if (watch->count == watch->room) {
    size_t room = watch->room == 0 ? 16 : watch->room * 2;
    watched *grown = realloc(watch->keys, room * sizeof *grown);
    if (grown == NULL)
      return PLUM_E_MEMORY;
    watch->keys = grown;
    watch->room = room;
  }
  memmove(watch->keys + at + 1, watch->keys + at, (watch->count - at) * sizeof *watch->keys);
  watch->keys[at].key = text_copy(entry->key, strlen(entry->key));
  watch->keys[at].version = entry->version;
  watch->keys[at].seen = listed;
  if (watch->keys[at].key == NULL) {
    memmove(watch->keys + at, watch->keys + at + 1, (watch->count - at) * sizeof *watch->keys);
    return PLUM_E_MEMORY;
  }
  watch->count++;
  return PLUM_OK;
}

static plum_status watch_lost(plum_kv_watch *watch, plum_status why)
{
  conn_close(&watch->line);
  watch->open = watch->current = 0;
  watch->rest.size_bytes = 0;
  watch->retry_ms = now_ms() + jitter_ms(&watch->client->source, RECONNECT_MS_FIRST,
                                         watch->tries++, RECONNECT_MS_MAX);
  switch (why) {
  case PLUM_E_MEMORY:
  case PLUM_E_INVALID:
  case PLUM_E_TLS:
  case PLUM_E_DENIED:
  case PLUM_E_REJECTED:
  case PLUM_E_NOT_FOUND: return why; /* asking again would not change it */
  default: return PLUM_OK;
  }
}

static plum_status watch_open(plum_kv_watch *watch)
{
  plum_buffer path = {0};
  plum_status status = conn_open(&watch->line, watch->client->transport, &watch->client->where);
  plum_sse_reader_free(watch->sse);
  watch->sse = NULL;
  if (status == PLUM_OK)
    status = plum_sse_reader_new(&watch->sse);
  add_text(&path, "/v1/stream?namespace=");
  add_percent(&path, watch->space, "");
  if (*watch->prefix != '\0') {
    add_text(&path, "&prefix=");
    add_percent(&path, watch->prefix, "");
  }
  if (status == PLUM_OK && path.failed)
    status = PLUM_E_MEMORY;
  if (status == PLUM_OK) {
    add_request(&watch->line.out, &watch->client->where, watch->client->token, "GET", path.data,
                "Accept: text/event-stream\r\n", NULL, 0);
    plum_http_reader_begin(watch->http, 0);
    watch->open = 1;
    watch->heard_ms = now_ms();
  }
  plum_buffer_free(&path);
  return status;
}

/* The stream has begun: now what is there; what changes meanwhile comes by the stream. */
static plum_status watch_list(plum_kv_watch *watch)
{
  size_t i;
  plum_status status;
  plum_kv_list_free(watch->list);
  watch->list = NULL;
  status = plum_kv_list_get(watch->client, watch->space, watch->prefix, &watch->list);
  for (i = 0; i < watch->count; i++)
    watch->keys[i].seen = 0;
  watch->list_at = watch->gone_at = 0;
  watch->heard_ms = now_ms();
  return status;
}

/* The next thing to be told of the newest list, and of what is not in it any more. */
static plum_status watch_from_list(plum_kv_watch *watch)
{
  plum_status status;
  while (watch->list != NULL && watch->list_at < watch->list->count) {
    plum_kv_entry *each = &watch->list->entries[watch->list_at++];
    status = watch_note(watch, each, 1);
    if (status == PLUM_AGAIN)
      continue;
    if (status == PLUM_OK) {
      watch->entry = *each;
      memset(each, 0, sizeof *each);
    }
    return status;
  }
  while (watch->list != NULL && watch->gone_at < watch->count) {
    watched *gone = &watch->keys[watch->gone_at];
    if (gone->seen) {
      watch->gone_at++;
      continue;
    }
    watch->entry.key = text_copy(gone->key, strlen(gone->key));
    watch->entry.value = text_copy("", 0);
    watch->entry.type = text_copy("string", 6);
    watch->entry.version = gone->version;
    watch->entry.deleted = 1;
    watch_forget(watch, watch->gone_at);
    return watch->entry.key != NULL ? PLUM_OK : PLUM_E_MEMORY;
  }
  if (watch->list != NULL) {
    watch->current = 1;
    watch->tries = 0;
  }
  plum_kv_list_free(watch->list);
  watch->list = NULL;
  return PLUM_AGAIN;
}

static plum_status watch_event(plum_kv_watch *watch, const plum_sse_event *event)
{
  plum_json object;
  plum_status status;
  if (strcmp(event->name, "ping") == 0)
    return strcmp(event->data, "init") == 0 ? watch_list(watch) : PLUM_OK;
  if (strcmp(event->name, "kv") != 0)
    return PLUM_OK;
  if (plum_json_parse(event->data, PLUM_Z, &object) != PLUM_OK)
    return PLUM_E_PROTOCOL;
  entry_free(&watch->entry);
  status = entry_of(object, &watch->entry);
  if (status == PLUM_OK) {
    status = watch_note(watch, &watch->entry, 1);
    if (status != PLUM_OK)
      entry_free(&watch->entry);
  }
  return status == PLUM_AGAIN ? PLUM_OK : status;
}

/* Reads on; PLUM_AGAIN: nothing is there. The event, if one came, is in watch->entry. */
static plum_status watch_read(plum_kv_watch *watch)
{
  conn *line = &watch->line;
  plum_sse_event event;
  plum_http_event http;
  size_t used;
  plum_status status;
  if (watch->rest.size_bytes > 0) {
    status = plum_sse_reader_feed(watch->sse, watch->rest.data, watch->rest.size_bytes, &used,
                                  &event);
    watch->rest.data += used;
    watch->rest.size_bytes -= used;
    return status == PLUM_OK ? watch_event(watch, &event)
           : status == PLUM_AGAIN ? PLUM_OK : status;
  }
  status = conn_connect(line);
  if (status == PLUM_OK)
    status = conn_flush(line);
  if (status == PLUM_OK)
    status = conn_fill(line);
  if (status != PLUM_OK)
    return status;
  watch->heard_ms = now_ms();
  status = plum_http_reader_feed(watch->http, line->in + line->in_at, line->in_size - line->in_at,
                                 &used, &http, &watch->rest);
  line->in_at += used;
  if (status == PLUM_OK && http == PLUM_HTTP_END)
    return PLUM_E_CLOSED;
  if (status == PLUM_OK && http == PLUM_HTTP_HEAD)
    status = http_status_of(watch->http->status);
  return status;
}

plum_status plum_kv_watch_next(plum_kv_watch *watch, int timeout_ms, const plum_kv_entry **entry)
{
  int64_t until_ms = now_ms() + timeout_ms;
  *entry = NULL;
  entry_free(&watch->entry);
  for (;;) {
    int64_t now = now_ms(), dead_ms;
    plum_status status = watch_from_list(watch);
    if (status != PLUM_AGAIN) {
      *entry = status == PLUM_OK ? &watch->entry : NULL;
      return status;
    }
    status = PLUM_OK;
    if (!watch->open && now >= watch->retry_ms)
      status = watch_open(watch);
    if (!watch->open && status == PLUM_OK) {
      if (now >= until_ms)
        return PLUM_E_TIMEOUT;
      (void)poll(NULL, 0, poll_ms(earlier(until_ms, watch->retry_ms), now));
      continue;
    }
    if (status == PLUM_OK)
      status = watch_read(watch);
    if (status == PLUM_OK && watch->entry.key != NULL) {
      *entry = &watch->entry;
      return PLUM_OK;
    }
    if (status == PLUM_AGAIN) {
      if (now >= until_ms)
        return PLUM_E_TIMEOUT;
      dead_ms = watch->heard_ms + (watch->line.connected ? WATCH_QUIET_MS : CONNECT_MS);
      status = conn_wait(&watch->line, earlier(until_ms, dead_ms));
      if (status == PLUM_E_TIMEOUT && now_ms() < dead_ms)
        status = PLUM_OK;
    }
    if (status != PLUM_OK && (status = watch_lost(watch, status)) != PLUM_OK)
      return status;
  }
}

/* ================================================================== 12 services */

static void add_endpoint(plum_buffer *body, const plum_endpoint *endpoint)
{
  add_text(body, "{");
  add_member(body, "serviceName", endpoint->service);
  plum_buffer_print(body, ",\"port\":%d", endpoint->port);
  add_member(body, "protocol", endpoint->protocol == NULL ? "http" : endpoint->protocol);
  add_member(body, "ip", endpoint->ip == NULL || *endpoint->ip == '\0' ? NULL : endpoint->ip);
  add_member(body, "version", endpoint->version);
  add_text(body, "}");
}

static int are_endpoints(const plum_endpoint *endpoints, size_t count)
{
  size_t i;
  if (endpoints == NULL)
    return count == 0;
  for (i = 0; i < count; i++)
    if (is_blank(endpoints[i].service) || endpoints[i].port < 1 || endpoints[i].port > 65535)
      return 0;
  return 1;
}

plum_status plum_service_register(plum_client *client, const char *instance_id,
                                  const plum_endpoint *endpoints, size_t count)
{
  plum_buffer body = {0};
  size_t i;
  if (is_blank(instance_id) || !are_endpoints(endpoints, count))
    return PLUM_E_INVALID;
  add_text(&body, "{");
  add_member(&body, "instanceId", instance_id);
  if (count > 0)
    add_member(&body, "nodeId", endpoints[0].node_id);
  add_text(&body, ",\"endpoints\":[");
  for (i = 0; i < count; i++) {
    add_text(&body, i > 0 ? "," : "");
    add_endpoint(&body, &endpoints[i]);
  }
  add_text(&body, "]}");
  return client_post(client, "/v1/services/register?replace=true", &body);
}

plum_status plum_service_heartbeat(plum_client *client, const char *instance_id,
                                   const plum_endpoint *endpoints, size_t count, int healthy)
{
  plum_buffer body = {0};
  size_t i;
  if (is_blank(instance_id) || !are_endpoints(endpoints, count))
    return PLUM_E_INVALID;
  add_text(&body, "{");
  add_member(&body, "instanceId", instance_id);
  for (i = 0; i < count; i++) {
    add_text(&body, i == 0 ? ",\"health\":[{" : ",{");
    add_member(&body, "serviceName", endpoints[i].service);
    plum_buffer_print(&body, ",\"port\":%d,\"healthy\":%s}", endpoints[i].port,
                      healthy ? "true" : "false");
  }
  add_text(&body, count > 0 ? "]}" : "}");
  return client_post(client, "/v1/services/heartbeat", &body);
}

plum_status plum_service_deregister(plum_client *client, const char *instance_id)
{
  plum_buffer path = {0};
  plum_status status;
  if (is_blank(instance_id))
    return PLUM_E_INVALID;
  add_text(&path, "/v1/services?instanceId=");
  add_percent(&path, instance_id, "");
  status = path.failed ? PLUM_E_MEMORY
           : client_call(client, "DELETE", path.data, NULL, NULL, 0, 0, 1, NULL);
  plum_buffer_free(&path);
  return status;
}

/* The endpoints of one service as they were fetched last. */
typedef struct cached {
  struct cached *next;
  char *service;
  plum_reply *reply;
  int64_t fetched_ms;
  plum_endpoint *endpoints;
  int *blamed;
  size_t count, turn;
  char *sticky;             /* the key of the endpoint that is stuck to */
} cached;

struct plum_resolver {
  plum_client *client;
  int cache_ms;
  cached *services, asked; /* asked: what the daemon chose last */
};

plum_status plum_resolver_new(plum_client *client, int cache_ms, plum_resolver **resolver)
{
  *resolver = calloc(1, sizeof **resolver);
  if (*resolver == NULL)
    return PLUM_E_MEMORY;
  (*resolver)->client = client;
  (*resolver)->cache_ms = cache_ms;
  return PLUM_OK;
}

static void endpoint_free(plum_endpoint *one)
{
  free((char *)(uintptr_t)one->service);
  free((char *)(uintptr_t)one->instance_id);
  free((char *)(uintptr_t)one->node_id);
  free((char *)(uintptr_t)one->ip);
  free((char *)(uintptr_t)one->protocol);
  free((char *)(uintptr_t)one->version);
}

static void cached_forget(cached *service)
{
  size_t i;
  for (i = 0; i < service->count; i++)
    endpoint_free(&service->endpoints[i]);
  free(service->endpoints);
  free(service->blamed);
  service->endpoints = NULL;
  service->blamed = NULL;
  service->count = 0;
}

void plum_resolver_free(plum_resolver *resolver)
{
  if (resolver == NULL)
    return;
  while (resolver->services != NULL) {
    cached *service = resolver->services;
    resolver->services = service->next;
    cached_forget(service);
    free(service->service);
    free(service->sticky);
    free(service);
  }
  cached_forget(&resolver->asked);
  free(resolver);
}

/* The endpoints that a reply shows, in the place of those of before. */
static plum_status cached_fill(cached *service, plum_reply *reply)
{
  int array = reply->json.type == PLUM_JSON_ARRAY;
  plum_json_cursor cursor = plum_json_walk(reply->json);
  plum_json item = reply->json;
  size_t count = 0;
  cached_forget(service);
  if (array)
    for (; plum_json_next(&cursor, NULL, &item);)
      count++;
  else
    count = 1;
  service->endpoints = calloc(count + 1, sizeof *service->endpoints);
  service->blamed = calloc(count + 1, sizeof *service->blamed);
  if (service->endpoints == NULL || service->blamed == NULL)
    return PLUM_E_MEMORY;
  cursor = plum_json_walk(reply->json);
  while (service->count < count && (!array || plum_json_next(&cursor, NULL, &item))) {
    plum_endpoint *one = &service->endpoints[service->count++];
    one->service = json_copy(plum_json_member(item, "serviceName"));
    one->instance_id = json_copy(plum_json_member(item, "instanceId"));
    one->node_id = json_copy(plum_json_member(item, "nodeId"));
    one->ip = json_copy(plum_json_member(item, "ip"));
    one->port = (int)(plum_json_int(plum_json_member(item, "port"), 0) & 65535);
    one->protocol = json_copy(plum_json_member(item, "protocol"));
    one->version = json_copy(plum_json_member(item, "version"));
    if (one->instance_id == NULL || one->ip == NULL || one->protocol == NULL)
      return PLUM_E_PROTOCOL;
  }
  return PLUM_OK;
}

static plum_status resolver_fetch(plum_resolver *resolver, const char *path, const char *service,
                                  const char *tail, cached *into)
{
  plum_buffer text = {0};
  plum_reply *reply = NULL;
  plum_status status;
  add_text(&text, path);
  add_percent(&text, service, "");
  add_text(&text, tail);
  status = text.failed ? PLUM_E_MEMORY
           : client_call(resolver->client, "GET", text.data, NULL, NULL, 0, 0, 1, &reply);
  plum_buffer_free(&text);
  if (status == PLUM_OK)
    status = cached_fill(into, reply);
  plum_reply_free(reply);
  return status;
}

static cached *resolver_find(plum_resolver *resolver, const char *service)
{
  cached *found = resolver->services;
  while (found != NULL && strcmp(found->service, service) != 0)
    found = found->next;
  if (found != NULL || (found = calloc(1, sizeof *found)) == NULL)
    return found;
  found->service = text_copy(service, strlen(service));
  if (found->service == NULL) {
    free(found);
    return NULL;
  }
  found->fetched_ms = INT64_MIN / 2;
  found->next = resolver->services;
  resolver->services = found;
  return found;
}

#define ENDPOINT_BYTES 512

/* What tells one endpoint of a service from another. */
static void endpoint_key(const plum_endpoint *one, char key[ENDPOINT_BYTES])
{
  (void)snprintf(key, ENDPOINT_BYTES, "%s %s %d %s", or_empty(one->instance_id),
                 or_empty(one->ip), one->port, or_empty(one->protocol));
}

static int endpoint_is(const plum_endpoint *one, const char *key)
{
  char own[ENDPOINT_BYTES];
  endpoint_key(one, own);
  return strcmp(own, key) == 0;
}

/* The index of the endpoint that the strategy picks among those that nobody blamed. */
static size_t cached_pick(plum_resolver *resolver, cached *service, plum_strategy strategy)
{
  size_t i, good = 0, nth;
  char key[ENDPOINT_BYTES];
  for (i = 0; i < service->count; i++) {
    if (service->blamed[i])
      continue;
    good++;
    if (strategy == PLUM_STICKY && service->sticky != NULL
        && endpoint_is(&service->endpoints[i], service->sticky))
      return i;
  }
  if (good == 0)
    return service->count;
  nth = (strategy == PLUM_ROUND_ROBIN ? service->turn++
         : (size_t)(chance_draw(&resolver->client->source) >> 33)) % good;
  for (i = 0; service->blamed[i] || nth-- > 0; i++)
    ;
  if (strategy == PLUM_STICKY) {
    endpoint_key(&service->endpoints[i], key);
    (void)text_set(&service->sticky, key);
  }
  return i;
}

plum_status plum_resolver_pick(plum_resolver *resolver, const char *service,
                               plum_strategy strategy, plum_endpoint *endpoint)
{
  cached *found;
  plum_status status = PLUM_OK;
  size_t index;
  if (is_blank(service) || (unsigned)strategy > PLUM_LEAST_LOADED)
    return PLUM_E_INVALID;
  if ((found = resolver_find(resolver, service)) == NULL)
    return PLUM_E_MEMORY;
  if (strategy == PLUM_LEAST_LOADED) {
    status = resolver_fetch(resolver, "/v1/discovery/one?service=", service,
                            "&strategy=least-loaded", &resolver->asked);
    if (status == PLUM_OK) {
      *endpoint = resolver->asked.endpoints[0];
      return PLUM_OK;
    }
    if (status == PLUM_E_NOT_FOUND || found->count == 0)
      return status;
  }
  for (;;) {
    int stale = now_ms() >= found->fetched_ms + resolver->cache_ms;
    if (stale) {
      status = resolver_fetch(resolver, "/v1/discovery?service=", service, "", found);
      if (status == PLUM_OK)
        found->fetched_ms = now_ms();
    }
    index = cached_pick(resolver, found, strategy);
    if (index < found->count) {
      *endpoint = found->endpoints[index];
      return PLUM_OK;
    }
    if (stale)
      return status == PLUM_OK ? PLUM_E_NOT_FOUND : status;
    found->fetched_ms = INT64_MIN / 2; /* all were blamed, or there are none: look again */
  }
}

void plum_resolver_blame(plum_resolver *resolver, const plum_endpoint *endpoint)
{
  cached *found = endpoint->service == NULL ? NULL : resolver_find(resolver, endpoint->service);
  size_t i;
  char key[ENDPOINT_BYTES];
  endpoint_key(endpoint, key);
  for (i = 0; found != NULL && i < found->count; i++)
    if (endpoint_is(&found->endpoints[i], key))
      found->blamed[i] = 1;
}

/* ================================================================== 13 the desk */

/* What a worker has in hand: attempts from the message that gave them to the result's
 * acknowledgement. It knows nothing of lines: a lost line changes nothing here. All of it is
 * guarded by the worker's lock. */

#define ID_BYTES 33
#define OVER_IDS_MIN 32     /* so many that are over are told from new ones, */
#define OVER_IDS_MAX 4096   /* by the capacity: a small table stays in the cache */
#define REASON_BYTES 12
#define MESSAGE_CHARS_MAX 8000
#define PROGRESS_TEXT_BYTES 1000
#define LOG_TEXT_BYTES 4096
#define LOG_ITEMS_MAX 1000  /* in one message */
#define LOG_BYTES_MAX (4u * 1024 * 1024)
#define KEPT_BYTES 4096     /* what a free attempt keeps of its memory */
#define AHEAD_NS 5000000    /* of work is wanted in hand beyond what runs, */
#define AHEAD_TIMES 16      /* but at most so many times the capacity; */
#define PACE_SAMPLE 32      /* from so many attempts at a time it is seen how long they take; */
#define STUCK_MS 100        /* when none ended for so long, what waits is given back */

/* How long handlers take, and so how many attempts are wanted beyond the capacity. */
typedef struct pacing {
  int wanted, said, asked; /* asked: it ever wanted any */
  int width;               /* how many handlers run side by side */
  int never;               /* some are deferred, and the capacity bounds those */
  int64_t spent_ns, moved_ms;
  int count;
} pacing;

/* An id in the table of all that are known; attempt: NULL when it is over. */
typedef struct known {
  struct known *next;
  uint32_t hash;
  char id[ID_BYTES];
  plum_attempt *attempt;
} known;

typedef struct task {
  struct task *next;
  char *name;
  plum_handler handler;
  void *context;
  int dropped;
} task;

typedef struct list {
  plum_attempt *first, *last;
  size_t count;
} list;

enum attempt_state {
  ATTEMPT_FREE,
  ATTEMPT_WAITING, /* for a thread, or for its turn */
  ATTEMPT_RUNNING,
  ATTEMPT_UNSENT,  /* its report waits for the line */
  ATTEMPT_SENT,    /* and for the acknowledgement */
  ATTEMPT_OVER     /* nobody waits for it any more; a handler may still hold it */
};

struct plum_attempt {
  known known;
  plum_worker *worker;
  list *in;
  plum_attempt *before, *after;
  task *task;
  enum attempt_state state;
  int pins;             /* calls of the user's code that hold it */
  int deferred, canceled, has_progress;
  int claimed, ended;   /* somebody writes its report; it is written */
  int number;
  int64_t timeout_ms;
  uint64_t seq;
  uint64_t said_bytes;  /* of its log */
  size_t payload_at, payload_bytes;
  plum_buffer text;     /* name NUL payload NUL */
  plum_buffer report;   /* the result as it is sent */
  plum_buffer progress;
  void *user;
  char reason[REASON_BYTES];
};

typedef struct journal {
  char *directory, *path;
  int lock_fd, fd;
  plum_buffer pending;  /* not yet written */
  size_t file_bytes, dead_bytes;
  int on, broken, foreign;
} journal;

enum line_state { LINE_DOWN, LINE_CONNECTING, LINE_UPGRADING, LINE_OPEN };
enum ending { SERVING, DRAINING, LEAVING, FLUSHING, GOODBYE, OVER };

struct plum_worker {
  /* settings */
  address where;
  int id_given;
  char *id, *token, *node, *instance, *app, *app_version, *directory;
  plum_buffer labels;
  int capacity, drain_timeout_ms, long_poll;
  const plum_transport *transport;
  plum_log log;
  void *log_context;
  plum_handler on_cancel;
  void *on_cancel_context;
  /* the desk, under the lock */
  pthread_mutex_t lock;
  pthread_cond_t work;
  known **buckets;
  size_t buckets_count, known_count;
  known *over;
  size_t over_at, over_count;
  list waiting, running, unsent, sent; /* where attempts are; what is over but held; free ones */
  list held, unused;
  task *tasks, *dropped;
  int tasks_changed, threads_end, leaving;
  int stepping;         /* somebody is in plum_worker_run or _step */
  int awake;            /* the loop looks again before it sleeps */
  int hold_back;        /* what came is not in the journal yet: nobody may start it */
  plum_buffer logs;     /* items, one a line: those in flight, then those that wait */
  size_t logs_sent, logs_sent_bytes; /* in flight */
  size_t logs_count, logs_dropped, progress_count;
  uint64_t logs_seq;    /* how many were said, those of another time counted again */
  plum_worker_figures figures;
  pacing pace;
  journal journal;
  /* the line: the loop's thread alone */
  pid_t pid;            /* whose pipe and name these are */
  int begun, wake[2], epoll_fd, epoll_line, epoll_events, stop_asked;
  char session[33];
  chance source;
  conn line;
  plum_http_reader *http;
  plum_ws_reader *ws;
  plum_reply answer;    /* of a long poll */
  enum line_state state;
  unsigned char key[16];
  plum_buffer say;
  int registered, log_acks, asked, drain_said, bye_said, tries;
  uint64_t seq;
  size_t items_max, bytes_max;
  int64_t beat_ms, lease_ms, opened_ms, until_ms, retry_ms, sent_ms, heard_ms, ping_ms,
      progress_ms, stuck_ms, change_ms, wait_ms;
  int lease_over;
  enum ending ending;
  int64_t ending_ms;
  int handlers_inline;
  plum_status outcome;
};

static void worker_say(plum_worker *worker, int level, const char *format, ...)
    PLUM_PRINTF(3, 4);

static void worker_say(plum_worker *worker, int level, const char *format, ...)
{
  char text[512];
  va_list words;
  if (worker->log == NULL)
    return;
  va_start(words, format);
  (void)vsnprintf(text, sizeof text, format, words);
  va_end(words);
  worker->log(worker->log_context, level, text);
}

static void lock(plum_worker *worker) { (void)pthread_mutex_lock(&worker->lock); }
static void unlock(plum_worker *worker) { (void)pthread_mutex_unlock(&worker->lock); }

/* Under the lock: let the loop look again, if it may be asleep. */
static void worker_wake(plum_worker *worker)
{
  if (!worker->awake) {
    worker->awake = 1;
    wake_poke(worker->wake, 'w');
  }
}

static void list_remove(plum_attempt *attempt)
{
  list *from = attempt->in;
  if (from == NULL)
    return;
  if (attempt->before != NULL)
    attempt->before->after = attempt->after;
  else
    from->first = attempt->after;
  if (attempt->after != NULL)
    attempt->after->before = attempt->before;
  else
    from->last = attempt->before;
  from->count--;
  attempt->in = NULL;
}

static void list_add(list *to, plum_attempt *attempt)
{
  list_remove(attempt);
  attempt->before = to->last;
  attempt->after = NULL;
  if (to->last != NULL)
    to->last->after = attempt;
  else
    to->first = attempt;
  to->last = attempt;
  to->count++;
  attempt->in = to;
}

/* FNV-1a. */
static uint32_t hash_of(const char *id)
{
  uint32_t hash = 2166136261u;
  for (; *id != '\0'; id++)
    hash = (hash ^ (unsigned char)*id) * 16777619u;
  return hash;
}

static known *known_find(plum_worker *worker, const char *id)
{
  uint32_t hash = hash_of(id);
  known *found = worker->buckets[hash & (worker->buckets_count - 1)];
  while (found != NULL && (found->hash != hash || strcmp(found->id, id) != 0))
    found = found->next;
  return found;
}

static void known_remove(plum_worker *worker, known *one)
{
  known **place = &worker->buckets[one->hash & (worker->buckets_count - 1)];
  while (*place != NULL && *place != one)
    place = &(*place)->next;
  if (*place != NULL) {
    *place = one->next;
    worker->known_count--;
  }
}

/* Into the table, by its hash. */
static void known_add(plum_worker *worker, known *one)
{
  known **place;
  if (worker->known_count >= worker->buckets_count) {
    size_t count = worker->buckets_count * 2, i;
    known **grown = calloc(count, sizeof *grown);
    for (i = 0; grown != NULL && i < worker->buckets_count; i++)
      while (worker->buckets[i] != NULL) {
        known *moved = worker->buckets[i];
        worker->buckets[i] = moved->next;
        moved->next = grown[moved->hash & (count - 1)];
        grown[moved->hash & (count - 1)] = moved;
      }
    if (grown != NULL) { /* without memory the chains grow longer, no more */
      free(worker->buckets);
      worker->buckets = grown;
      worker->buckets_count = count;
    }
  }
  place = &worker->buckets[one->hash & (worker->buckets_count - 1)];
  one->next = *place;
  *place = one;
  worker->known_count++;
}

/* A free attempt under this id, in the table; NULL when memory is out. */
static plum_attempt *attempt_new(plum_worker *worker, const char *id)
{
  plum_attempt *attempt = worker->unused.first;
  size_t size;
  if (attempt != NULL)
    list_remove(attempt);
  else if ((attempt = calloc(1, sizeof *attempt)) == NULL)
    return NULL;
  attempt->worker = worker;
  attempt->known.attempt = attempt;
  size = strlen(id);
  memcpy(attempt->known.id, id, size < ID_BYTES ? size + 1 : 1);
  attempt->task = NULL;
  attempt->pins = attempt->deferred = attempt->claimed = attempt->ended = attempt->canceled = 0;
  attempt->has_progress = 0;
  attempt->said_bytes = 0;
  attempt->user = NULL;
  attempt->reason[0] = '\0';
  buffer_clear(&attempt->text, KEPT_BYTES);
  buffer_clear(&attempt->report, KEPT_BYTES);
  attempt->known.hash = hash_of(attempt->known.id);
  known_add(worker, &attempt->known);
  return attempt;
}

static void attempt_recycle(plum_attempt *attempt)
{
  attempt->state = ATTEMPT_FREE;
  buffer_clear(&attempt->text, KEPT_BYTES);
  buffer_clear(&attempt->report, KEPT_BYTES);
  buffer_clear(&attempt->progress, KEPT_BYTES);
  list_add(&attempt->worker->unused, attempt);
}

static void forget_progress(plum_attempt *attempt)
{
  if (attempt->has_progress)
    attempt->worker->progress_count--;
  attempt->has_progress = 0;
}

/* The worker is done with it; its handler may not be. */
static void attempt_release(plum_attempt *attempt)
{
  int held = attempt->pins > 0 || attempt->state == ATTEMPT_RUNNING;
  forget_progress(attempt);
  attempt->state = ATTEMPT_OVER;
  if (held)
    list_add(&attempt->worker->held, attempt);
  else
    attempt_recycle(attempt);
}

/* A call of the user's code that held it has returned. */
static void attempt_unpin(plum_attempt *attempt)
{
  if (--attempt->pins == 0 && attempt->state == ATTEMPT_OVER && attempt->ended)
    attempt_recycle(attempt);
}

/* Nobody waits for it any more; its id is remembered, so that it is not started again. */
static void attempt_over(plum_attempt *attempt)
{
  plum_worker *worker = attempt->worker;
  known *over = &worker->over[worker->over_at];
  worker->over_at = (worker->over_at + 1) % worker->over_count;
  if (over->id[0] != '\0')
    known_remove(worker, over);
  known_remove(worker, &attempt->known);
  memcpy(over->id, attempt->known.id, ID_BYTES);
  over->hash = attempt->known.hash;
  known_add(worker, over);
  attempt_release(attempt);
}

static void journal_result(plum_worker *worker, plum_attempt *attempt);
static void journal_over(plum_worker *worker, const plum_attempt *attempt);

/* Its report is ready for the line. */
static void attempt_report(plum_attempt *attempt)
{
  plum_worker *worker = attempt->worker;
  attempt->ended = 1;
  forget_progress(attempt);
  list_add(&worker->unsent, attempt);
  attempt->state = ATTEMPT_UNSENT;
  journal_result(worker, attempt);
  worker_wake(worker);
}

static void report_begin(plum_attempt *attempt)
{
  buffer_clear(&attempt->report, KEPT_BYTES);
  plum_buffer_add(&attempt->report, "{\"id\":\"", 7);
  add_text(&attempt->report, attempt->known.id);
  plum_buffer_add(&attempt->report, "\"", 1);
}

/* At most so many bytes of a text, not cut inside a character. */
static size_t cut_text(const char *text, size_t size, size_t bytes_max)
{
  if (size <= bytes_max)
    return size;
  for (size = bytes_max; size > 0 && ((unsigned char)text[size] & 0xC0) == 0x80;)
    size--;
  return size;
}

static void report_error(plum_attempt *attempt, const char *code, const char *message,
                         const char *detail)
{
  plum_buffer *out = &attempt->report;
  add_text(out, ",\"error\":{\"code\":");
  plum_buffer_add_json(out, code, cut_text(code, strlen(code), 200));
  add_text(out, ",\"message\":");
  plum_buffer_add_json(out, message, cut_text(message, strlen(message), MESSAGE_CHARS_MAX));
  if (detail != NULL)
    plum_buffer_print(out, ",\"detail\":%s", detail);
  add_text(out, "}");
}

/* It ends without its handler: not started, or not waited for. code: NULL = it was stopped. */
static void attempt_end_by_us(plum_attempt *attempt, const char *code, const char *message)
{
  report_begin(attempt);
  if (code == NULL)
    add_text(&attempt->report, ",\"stopped\":true");
  else
    report_error(attempt, code, message, NULL);
  add_text(&attempt->report, "}");
  attempt_report(attempt);
}

/* The running attempt's handler goes on, but for the daemon it is lost or stopped from now on. */
static void attempt_abandon(plum_attempt *attempt, const char *why)
{
  plum_worker *worker = attempt->worker;
  int lost = strcmp(attempt->reason, PLUM_LOST) == 0;
  plum_attempt *stand_in;
  known_remove(worker, &attempt->known);
  attempt_release(attempt);
  stand_in = attempt_new(worker, attempt->known.id);
  if (stand_in != NULL)
    attempt_end_by_us(stand_in, lost ? PLUM_LOST : NULL, why);
}

/* The attempt shall end; the first reason stays. */
static void attempt_stop(plum_attempt *attempt, const char *reason)
{
  if (attempt->canceled)
    return;
  attempt->canceled = 1;
  (void)snprintf(attempt->reason, REASON_BYTES, "%s", reason);
}

/* The loop's thread only; the user's code is called without the lock. */
static void tell_cancel(plum_attempt *attempt)
{
  plum_worker *worker = attempt->worker;
  if (worker->on_cancel == NULL)
    return;
  attempt->pins++;
  unlock(worker);
  worker->on_cancel(attempt, worker->on_cancel_context);
  lock(worker);
  attempt_unpin(attempt);
}

/* All that is in hand must be taken for lost: handlers are told to end. */
static void desk_give_up(plum_worker *worker, const char *why)
{
  plum_attempt *attempt;
  size_t left;
  while ((attempt = worker->waiting.first) != NULL) {
    worker->figures.given_up++;
    attempt_end_by_us(attempt, PLUM_LOST, why);
  }
  /* Others may end meanwhile: each that is left comes by at least once. */
  for (left = worker->running.count; left > 0 && worker->running.first != NULL; left--) {
    attempt = worker->running.first;
    list_add(&worker->running, attempt);
    if (attempt->canceled)
      continue;
    worker->figures.given_up++;
    attempt_stop(attempt, PLUM_LOST);
    tell_cancel(attempt);
  }
}

static void desk_abandon(plum_worker *worker, const char *why)
{
  desk_give_up(worker, why);
  while (worker->running.first != NULL)
    attempt_abandon(worker->running.first, why);
}

static task *task_find(plum_worker *worker, const char *name)
{
  task *found = worker->tasks;
  while (found != NULL && strcmp(found->name, name) != 0)
    found = found->next;
  return found;
}

static int task_was_dropped(plum_worker *worker, const char *name)
{
  task *found = worker->dropped;
  while (found != NULL && strcmp(found->name, name) != 0)
    found = found->next;
  return found != NULL;
}

/* The handler has said how it ended, and the report says that but for its end. failed: the work was
 * not done. */
static void attempt_end(plum_attempt *attempt, int failed)
{
  int lost = strcmp(attempt->reason, PLUM_LOST) == 0;
  attempt->ended = 1;
  if (attempt->state == ATTEMPT_OVER) {
    if (attempt->pins == 0)
      attempt_recycle(attempt);
    return;
  }
  /* Work that was finished in spite of a lost line is worth reporting: the daemon knows whether the
   * attempt is still the current one. */
  if (lost && failed) {
    attempt_end_by_us(attempt, PLUM_LOST, "the worker could not vouch for it any more");
    return;
  }
  add_text(&attempt->report, attempt->canceled && !lost ? ",\"stopped\":true}" : "}");
  attempt_report(attempt);
}

/* A handler took so long. Changes below twofold are not worth a word. */
static void pace_note(plum_worker *worker, int64_t spent_ns)
{
  pacing *pace = &worker->pace;
  int64_t each_ns, most = (int64_t)AHEAD_TIMES * worker->capacity, fit = most;
  pace->spent_ns += spent_ns / pace->width;
  if (++pace->count < PACE_SAMPLE)
    return;
  each_ns = pace->spent_ns / pace->count;
  pace->spent_ns = pace->count = 0;
  if (pace->never)
    return;
  if (each_ns * most > AHEAD_NS)
    fit = AHEAD_NS / each_ns;
  if (fit == 0 || fit == most || fit >= 2 * pace->wanted || 2 * fit <= pace->wanted)
    pace->wanted = (int)fit;
  pace->asked = pace->asked || fit > 0;
}

/* Others may have what waits here: it has not begun. */
static void give_back(plum_worker *worker)
{
  worker->pace.wanted = worker->pace.count = 0;
  worker->pace.spent_ns = 0;
  while (worker->waiting.first != NULL)
    attempt_end_by_us(worker->waiting.first, "returned", "it has not begun");
}

/* Calls the handler, without the lock; what it left open is ended. Answers when it returned. */
static int64_t attempt_run(plum_attempt *attempt, int64_t begun_ns)
{
  plum_worker *worker = attempt->worker;
  int64_t ended_ns;
  attempt->pins++;
  list_add(&worker->running, attempt);
  attempt->state = ATTEMPT_RUNNING;
  unlock(worker);
  attempt->task->handler(attempt, attempt->task->context);
  ended_ns = now_ns();
  lock(worker);
  worker->pace.moved_ms = ended_ns / 1000000;
  pace_note(worker, ended_ns - begun_ns);
  if (!attempt->claimed && !attempt->deferred) {
    attempt->claimed = 1;
    report_begin(attempt);
    attempt_end(attempt, attempt->canceled);
  }
  attempt_unpin(attempt);
  return ended_ns;
}

/* ================================================================== 14 the journal */

/* One file in the worker's directory: records of what was started, how it ended, and what is over
 * with. After a crash the same session comes back with it: ended attempts are reported, started
 * ones are given up, and none is started twice. A record is
 *     size (4 bytes, little endian)  CRC-32 (4)  kind (1)  content
 * H: worker id NUL session  S: ids, each NUL  R: id NUL report  A: ids, each NUL.
 * What is behind the first record that is not whole was not on disk when the machine stopped. */

#define JOURNAL_DEAD_BYTES (1024u * 1024)

/* Source: the CRC of ISO 3309, as zlib has it. */
static uint32_t crc32_of(const char *data, size_t size)
{
  uint32_t crc = 0xFFFFFFFF;
  size_t i;
  int bit;
  for (i = 0; i < size; i++)
    for (crc ^= (unsigned char)data[i], bit = 0; bit < 8; bit++)
      crc = crc & 1 ? crc >> 1 ^ 0xEDB88320 : crc >> 1;
  return ~crc;
}

static void put_le32(char *out, uint32_t number)
{
  int i;
  for (i = 0; i < 4; i++)
    out[i] = (char)(number >> 8 * i & 255);
}

static uint32_t get_le32(const char *data)
{
  const unsigned char *at = (const unsigned char *)data;
  return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static void journal_record(plum_buffer *out, char kind, const char *one, size_t one_size,
                           const char *two, size_t two_size)
{
  size_t at = out->size_bytes, size = 1 + one_size + two_size;
  plum_buffer_add(out, "\0\0\0\0\0\0\0", 8);
  plum_buffer_add(out, &kind, 1);
  plum_buffer_add(out, one, one_size);
  if (two_size > 0)
    plum_buffer_add(out, two, two_size);
  if (out->failed)
    return;
  put_le32(out->data + at, (uint32_t)size);
  put_le32(out->data + at + 4, crc32_of(out->data + at + 8, size));
}

static void journal_id(plum_buffer *out, char kind, const plum_attempt *attempt)
{
  journal_record(out, kind, attempt->known.id, strlen(attempt->known.id) + 1, NULL, 0);
}

static void journal_report(plum_buffer *out, const plum_attempt *attempt)
{
  journal_record(out, 'R', attempt->known.id, strlen(attempt->known.id) + 1,
                 attempt->report.data, attempt->report.size_bytes);
}

static void journal_result(plum_worker *worker, plum_attempt *attempt)
{
  if (worker->journal.on)
    journal_report(&worker->journal.pending, attempt);
}

static void journal_over(plum_worker *worker, const plum_attempt *attempt)
{
  if (!worker->journal.on)
    return;
  journal_id(&worker->journal.pending, 'A', attempt);
  worker->journal.dead_bytes += attempt->report.size_bytes + 120;
}

static int write_all(int fd, const char *data, size_t size)
{
  while (size > 0) {
    ssize_t count = write(fd, data, size);
    if (count < 0 && errno == EINTR)
      continue;
    if (count <= 0)
      return 0;
    data += count;
    size -= (size_t)count;
  }
  return 1;
}

/* Under the lock: everything that counts, as the records of a new file. */
static void journal_snapshot(plum_worker *worker, plum_buffer *out)
{
  const list *lists[4];
  size_t i;
  plum_attempt *attempt;
  lists[0] = &worker->waiting;
  lists[1] = &worker->running;
  lists[2] = &worker->sent;
  lists[3] = &worker->unsent;
  journal_record(out, 'H', worker->id, strlen(worker->id) + 1, worker->session,
                 strlen(worker->session));
  for (i = 0; i < 4; i++)
    for (attempt = lists[i]->first; attempt != NULL; attempt = attempt->after)
      if (i < 2)
        journal_id(out, 'S', attempt);
      else
        journal_report(out, attempt);
}

/* Puts a new file in the old one's place: whole on disk before it has the name. */
static int journal_replace(plum_worker *worker, const plum_buffer *content)
{
  journal *log = &worker->journal;
  plum_buffer path = {0};
  int fd, directory, well;
  plum_buffer_print(&path, "%s.new", log->path);
  if (path.failed)
    return 0;
  fd = open(path.data, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
  directory = open(log->directory, O_RDONLY | O_CLOEXEC);
  well = fd >= 0 && directory >= 0 && !content->failed
         && write_all(fd, content->data, content->size_bytes) && fsync(fd) == 0
         && rename(path.data, log->path) == 0 && fsync(directory) == 0;
  plum_buffer_free(&path);
  if (directory >= 0)
    (void)close(directory);
  if (!well) {
    if (fd >= 0)
      (void)close(fd);
    return 0;
  }
  if (log->fd >= 0)
    (void)close(log->fd);
  log->fd = fd;
  log->file_bytes = content->size_bytes;
  log->dead_bytes = 0;
  return 1;
}

/* The loop's thread, without the lock: what is pending is on disk when it returns. When the disk
 * fails, the results stay in memory and the whole file is written anew with the next ones. */
static void journal_sync(plum_worker *worker)
{
  journal *log = &worker->journal;
  plum_buffer content = {0};
  int anew, well;
  if (!log->on)
    return;
  lock(worker);
  anew = log->broken || (log->dead_bytes > JOURNAL_DEAD_BYTES
                         && log->dead_bytes > log->file_bytes / 2);
  if (anew && (log->pending.size_bytes > 0 || !log->broken)) {
    journal_snapshot(worker, &content);
    buffer_clear(&log->pending, 65536);
  } else {
    content = log->pending;
    memset(&log->pending, 0, sizeof log->pending);
  }
  unlock(worker);
  if (content.size_bytes > 0) {
    well = anew ? journal_replace(worker, &content)
           : !content.failed && write_all(log->fd, content.data, content.size_bytes)
                 && fdatasync(log->fd) == 0;
    if (!anew)
      log->file_bytes += content.size_bytes;
    if (!well && !log->broken)
      worker_say(worker, 0, "cannot write %s: %s; results are in memory alone", log->path,
                 strerror(errno));
    log->broken = !well;
  }
  plum_buffer_free(&content);
}

/* What one record says about the last life of this worker. */
static int journal_apply(plum_worker *worker, char kind, const char *content, size_t size)
{
  journal *log = &worker->journal;
  const char *nul = memchr(content, '\0', size);
  size_t id_size = nul == NULL ? 0 : (size_t)(nul - content);
  known *found;
  plum_attempt *attempt;
  plum_json report = {NULL, 0, PLUM_JSON_NONE};
  if (nul == NULL)
    return 0;
  if (kind == 'H') {
    size_t session_size = size - id_size - 1;
    if (session_size == 0 || session_size >= sizeof worker->session)
      return 0;
    log->foreign = worker->id_given && strcmp(worker->id, content) != 0;
    if (log->foreign)
      return 0;
    memcpy(worker->session, nul + 1, session_size);
    worker->session[session_size] = '\0';
    return text_set(&worker->id, content) == PLUM_OK;
  }
  if (worker->session[0] == '\0' || id_size == 0 || id_size >= ID_BYTES)
    return 0;
  if ((kind != 'S' && kind != 'R' && kind != 'A')
      || (kind == 'R' && plum_json_parse(nul + 1, size - id_size - 1, &report) != PLUM_OK))
    return 0;
  found = known_find(worker, content);
  attempt = found == NULL ? NULL : found->attempt;
  if (kind == 'A') {
    if (attempt != NULL)
      attempt_over(attempt);
    return 1;
  }
  if (found == NULL && (attempt = attempt_new(worker, content)) == NULL)
    return 0;
  if (attempt == NULL)
    return 1; /* it is over already */
  if (kind == 'S') {
    list_add(&worker->running, attempt);
    return 1;
  }
  buffer_clear(&attempt->report, KEPT_BYTES);
  plum_buffer_add(&attempt->report, report.text, report.size_bytes);
  attempt->ended = 1;
  list_add(&worker->unsent, attempt);
  attempt->state = ATTEMPT_UNSENT;
  return 1;
}

static void journal_load(plum_worker *worker, const plum_buffer *content)
{
  size_t at = 0, left;
  while ((left = content->size_bytes - at) > 9) {
    size_t size = get_le32(content->data + at);
    const char *record = content->data + at + 8;
    if (size < 2 || size > left - 8 || crc32_of(record, size) != get_le32(record - 4)
        || !journal_apply(worker, record[0], record + 1, size - 1))
      break;
    at += 8 + size;
  }
  if (left > 0 && !worker->journal.foreign)
    worker_say(worker, 1, "the last %zu bytes of %s cannot be read and are left out", left,
               worker->journal.path);
  /* Started and not ended: with the process that carried them out, they are gone. */
  while (worker->running.first != NULL)
    attempt_end_by_us(worker->running.first, PLUM_LOST, "the worker's process ended");
  if (worker->unsent.count > 0)
    worker_say(worker, 1, "%zu results of before the restart are kept", worker->unsent.count);
}

static int read_file(const char *path, plum_buffer *content)
{
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  ssize_t count = 1;
  if (fd < 0)
    return errno == ENOENT;
  while (count != 0 && buffer_room(content, 65536)) {
    count = read(fd, content->data + content->size_bytes, 65536);
    if (count < 0 && errno != EINTR)
      break;
    content->size_bytes += count > 0 ? (size_t)count : 0;
  }
  (void)close(fd);
  return count == 0;
}

/* Nobody else has this file while we have it open. */
static int lock_file(int fd)
{
#ifdef __linux__ /* POSIX's lock is the process's, and so keeps no two workers of one apart */
  return flock(fd, LOCK_EX | LOCK_NB) == 0;
#else
  struct flock whole;
  memset(&whole, 0, sizeof whole);
  whole.l_type = F_WRLCK;
  whole.l_whence = SEEK_SET;
  return fcntl(fd, F_SETLK, &whole) == 0;
#endif
}

/* Locks the directory, and takes over what the last life of this worker left there. */
static plum_status journal_open(plum_worker *worker)
{
  journal *log = &worker->journal;
  plum_buffer path = {0}, content = {0};
  int well;
  if (worker->directory == NULL)
    return PLUM_OK;
  log->directory = worker->directory;
  plum_buffer_print(&path, "%s/plum.lock", worker->directory);
  if (path.failed)
    return PLUM_E_MEMORY;
  log->lock_fd = open(path.data, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (log->lock_fd < 0 || !lock_file(log->lock_fd)) {
    worker_say(worker, 0, "cannot lock %s: %s", path.data,
               errno == EWOULDBLOCK ? "another worker has it" : strerror(errno));
    plum_buffer_free(&path);
    return PLUM_E_DISK;
  }
  buffer_clear(&path, SIZE_MAX);
  plum_buffer_print(&path, "%s/plum.journal", worker->directory);
  log->path = path.data;
  well = !path.failed && read_file(log->path, &content);
  if (!well && log->path != NULL)
    worker_say(worker, 0, "cannot read %s: %s", log->path, strerror(errno));
  if (well && content.size_bytes > 0)
    journal_load(worker, &content);
  plum_buffer_free(&content);
  if (log->foreign)
    worker_say(worker, 0, "%s belongs to another worker id", log->path);
  return well && !log->foreign ? PLUM_OK : PLUM_E_DISK;
}

static plum_status journal_begin(plum_worker *worker)
{
  plum_buffer content = {0};
  int well;
  if (worker->directory == NULL)
    return PLUM_OK;
  journal_snapshot(worker, &content);
  well = journal_replace(worker, &content);
  plum_buffer_free(&content);
  worker->journal.on = well;
  if (!well)
    worker_say(worker, 0, "cannot write %s: %s", worker->journal.path, strerror(errno));
  return well ? PLUM_OK : PLUM_E_DISK;
}

/* The worker has ended: with nothing left, the next life is a new session. */
static void journal_end(plum_worker *worker)
{
  journal *log = &worker->journal;
  size_t left;
  journal_sync(worker);
  lock(worker);
  left = worker->unsent.count + worker->sent.count + worker->running.count;
  log->on = 0;
  plum_buffer_free(&log->pending);
  unlock(worker);
  if (log->fd >= 0) {
    if (left == 0)
      (void)unlink(log->path);
    (void)close(log->fd);
  }
  if (log->lock_fd >= 0)
    (void)close(log->lock_fd);
  log->fd = log->lock_fd = -1;
  free(log->path);
  log->path = NULL;
}

/* ================================================================== 15 what is said and heard */

#define PROGRESS_MS 200
#define PROGRESS_ITEMS_MAX 100
#define ENVELOPE_BYTES 131072   /* of a message, beside its results */
#define SLICE_NS 1000000        /* inline handlers, before the line gets a turn */

/* `"name":[` with the ids of all that is in hand. */
static void say_holding(plum_worker *worker, plum_buffer *out)
{
  const list *lists[4];
  const char *comma = "";
  plum_attempt *attempt;
  int i;
  lists[0] = &worker->waiting;
  lists[1] = &worker->running;
  lists[2] = &worker->unsent;
  lists[3] = &worker->sent;
  add_text(out, ",\"holding\":[");
  for (i = 0; i < 4; i++)
    for (attempt = lists[i]->first; attempt != NULL; attempt = attempt->after, comma = ",")
      plum_buffer_print(out, "%s\"%s\"", comma, attempt->known.id);
  add_text(out, "]");
}

static void say_tasks(plum_worker *worker, plum_buffer *out)
{
  const char *comma = "";
  const task *each;
  add_text(out, ",\"tasks\":[");
  for (each = worker->tasks; each != NULL; each = each->next, comma = ",") {
    add_text(out, comma);
    plum_buffer_add_json(out, each->name, PLUM_Z);
  }
  add_text(out, "]");
  worker->tasks_changed = 0;
}

static void say_register(plum_worker *worker, plum_buffer *out)
{
  plum_buffer_print(out, ",\"register\":{\"session\":\"%s\",\"capacity\":%d,\"version\":%d,"
                    "\"beatSec\":", worker->session, worker->capacity, PLUM_PROTOCOL_VERSION);
  add_seconds(out, worker->beat_ms);
  say_tasks(worker, out);
  add_member(out, "nodeId", worker->node);
  add_member(out, "instanceId", worker->instance);
  add_member(out, "appName", worker->app);
  add_member(out, "appVersion", worker->app_version);
  if (worker->labels.size_bytes > 0)
    plum_buffer_print(out, ",\"labels\":{%s}", worker->labels.data);
  add_text(out, "}");
}

/* The next batch of results, in the order in which they ended; 0 when there is none. */
static int say_results(plum_worker *worker, plum_buffer *out)
{
  size_t count = 0, bytes = out->size_bytes + ENVELOPE_BYTES;
  plum_attempt *attempt;
  while ((attempt = worker->unsent.first) != NULL && count < worker->items_max) {
    if (count > 0 && bytes + attempt->report.size_bytes > worker->bytes_max)
      break;
    if (count++ == 0)
      plum_buffer_print(out, ",\"seq\":%llu,\"results\":[", (unsigned long long)++worker->seq);
    else
      plum_buffer_add(out, ",", 1);
    plum_buffer_add(out, attempt->report.data, attempt->report.size_bytes);
    bytes += attempt->report.size_bytes + 1;
    attempt->seq = worker->seq;
    attempt->state = ATTEMPT_SENT;
    list_add(&worker->sent, attempt);
  }
  if (count > 0)
    add_text(out, "]");
  return count > 0;
}

static void say_progress(plum_worker *worker, plum_buffer *out)
{
  plum_attempt *attempt = worker->running.first;
  size_t count = 0;
  for (; attempt != NULL && worker->progress_count > 0 && count < PROGRESS_ITEMS_MAX;
       attempt = attempt->after) {
    if (!attempt->has_progress)
      continue;
    add_text(out, count++ == 0 ? ",\"progress\":[" : ",");
    plum_buffer_add(out, attempt->progress.data, attempt->progress.size_bytes);
    forget_progress(attempt);
  }
  if (count > 0)
    add_text(out, "]");
}

/* So many of the lines in flight need not be said again. */
static void logs_told(plum_worker *worker, size_t count)
{
  size_t at = 0;
  for (worker->logs_sent -= count; count > 0; count--)
    at += strcspn(worker->logs.data + at, "\n") + 1;
  worker->logs_sent_bytes -= at;
  buffer_drop(&worker->logs, at);
  if (worker->logs.size_bytes == 0)
    buffer_clear(&worker->logs, 65536);
}

/* Up to LOG_ITEMS_MAX lines of log. */
static void say_logs(plum_worker *worker, plum_buffer *out)
{
  size_t count = 0;
  if (worker->logs_count == 0)
    return;
  add_text(out, ",\"logs\":[");
  for (; count < LOG_ITEMS_MAX && worker->logs_count > 0; count++, worker->logs_count--) {
    const char *item = worker->logs.data + worker->logs_sent_bytes;
    size_t size = strcspn(item, "\n");
    plum_buffer_add(out, ",", count > 0);
    plum_buffer_add(out, item, size);
    worker->logs_sent_bytes += size + 1;
  }
  worker->logs_sent += count;
  worker->logs_seq += count;
  plum_buffer_print(out, "],\"logSeq\":%llu", (unsigned long long)worker->logs_seq);
  if (!worker->log_acks)
    logs_told(worker, count);
}

/* The line is gone: what was in flight is sent again, in the old order. */
static void desk_rewind(plum_worker *worker)
{
  plum_attempt *attempt;
  worker->logs_count += worker->logs_sent;
  worker->logs_sent = worker->logs_sent_bytes = 0;
  while ((attempt = worker->sent.last) != NULL) {
    list_remove(attempt);
    attempt->state = ATTEMPT_UNSENT;
    attempt->before = NULL;
    attempt->after = worker->unsent.first;
    if (attempt->after != NULL)
      attempt->after->before = attempt;
    else
      worker->unsent.last = attempt;
    worker->unsent.first = attempt;
    worker->unsent.count++;
    attempt->in = &worker->unsent;
  }
}

/* How long the daemon may keep a long poll: while something runs, about as long as it has run yet,
 * for its result has to wait for the answer. */
static int64_t patience_ms(plum_worker *worker, int64_t now)
{
  int64_t since = now - worker->change_ms;
  if (!worker->registered || worker->ending == GOODBYE)
    return 0;
  if (worker->running.count + worker->waiting.count > 0)
    return since < 20 ? 20 : earlier(since, 1000);
  return earlier(worker->beat_ms, 30000);
}

/* Under the lock: all that is to be said now, as one message in worker->say; 0 = nothing. The first
 * byte of worker->say is none of it. */
static int collect(plum_worker *worker, int64_t now)
{
  plum_buffer *out = &worker->say;
  int drains = worker->ending >= DRAINING && !worker->drain_said;
  int leaves = worker->ending == GOODBYE && !worker->bye_said;
  int beats = now >= worker->sent_ms + worker->beat_ms, results = 0;
  int registers = !worker->registered && !worker->asked;
  int quiet = worker->progress_count > 0 || (worker->registered && worker->logs_count > 0);
  buffer_clear(out, 262144);
  add_text(out, " ");
  if (worker->long_poll)
    plum_buffer_print(out, ",\"session\":\"%s\"", worker->session);
  if (registers)
    say_register(worker, out);
  else if (worker->tasks_changed)
    say_tasks(worker, out);
  if (registers || worker->long_poll)
    say_holding(worker, out);
  if (quiet && (drains || leaves || beats || worker->unsent.count > 0 || out->size_bytes > 1
                || now >= worker->progress_ms + PROGRESS_MS)) {
    say_progress(worker, out);
    if (worker->registered) /* then it is known whether lines are acknowledged */
      say_logs(worker, out);
    worker->progress_ms = now;
  }
  if (worker->logs_count == 0) /* an attempt's lines come before its result */
    results = say_results(worker, out);
  worker->wait_ms = results ? 0 : patience_ms(worker, now);
  if (worker->long_poll && !results) {
    add_text(out, ",\"waitSec\":");
    add_seconds(out, worker->wait_ms);
  }
  if (worker->registered && worker->pace.wanted != worker->pace.said)
    plum_buffer_print(out, ",\"ahead\":%d", worker->pace.wanted);
  if (beats && !results)
    add_text(out, ",\"beat\":true");
  if (drains)
    add_text(out, ",\"drain\":true");
  if (leaves)
    add_text(out, ",\"bye\":true");
  if (out->failed) /* without memory nothing was said: later, then */
    desk_rewind(worker);
  if (out->size_bytes == 1 || out->failed)
    return 0;
  worker->pace.said = worker->registered ? worker->pace.wanted : 0;
  worker->drain_said = worker->drain_said || drains;
  worker->bye_said = worker->bye_said || leaves;
  add_text(out, "}");
  out->data[1] = '{';
  return 1;
}

static void hear_log_ack(plum_worker *worker, uint64_t ack)
{
  uint64_t before = worker->logs_seq - worker->logs_sent;
  if (ack > before)
    logs_told(worker, (size_t)(ack - before));
}

static void hear_ack(plum_worker *worker, uint64_t ack)
{
  plum_attempt *attempt;
  while ((attempt = worker->sent.first) != NULL && attempt->seq <= ack) {
    worker->figures.results++;
    journal_over(worker, attempt);
    attempt_over(attempt);
  }
}

/* The string's text in a small place; 0 when it does not fit or is none. */
static int small_text(plum_json value, char *out, size_t room)
{
  char *text;
  size_t size = value.size_bytes - 2;
  int fits;
  if (value.type != PLUM_JSON_STRING)
    return 0;
  if (size < room && memchr(value.text, '\\', value.size_bytes) == NULL) {
    memcpy(out, value.text + 1, size);
    out[size] = '\0';
    return 1;
  }
  text = json_copy(value);
  fits = text != NULL && strlen(text) < room;
  if (fits)
    memcpy(out, text, strlen(text) + 1);
  free(text);
  return fits;
}

/* What the daemon does not want: end the work, say nothing about it. */
static int hear_refused(plum_worker *worker, plum_json items)
{
  plum_json_cursor cursor = plum_json_walk(items);
  plum_json item;
  char id[ID_BYTES];
  while (plum_json_next(&cursor, NULL, &item)) {
    known *found;
    plum_attempt *attempt;
    if (!small_text(plum_json_member(item, "id"), id, sizeof id))
      return 0;
    worker->figures.refused++;
    found = known_find(worker, id);
    attempt = found == NULL ? NULL : found->attempt;
    if (attempt == NULL)
      continue;
    journal_over(worker, attempt);
    if (attempt->state == ATTEMPT_RUNNING && !attempt->canceled) {
      attempt->pins++;
      attempt_stop(attempt, "stale");
      attempt_over(attempt);
      tell_cancel(attempt);
      attempt_unpin(attempt);
    } else {
      attempt_over(attempt);
    }
  }
  return 1;
}

static int hear_cancel(plum_worker *worker, plum_json items)
{
  plum_json_cursor cursor = plum_json_walk(items);
  plum_json item;
  char id[ID_BYTES], reason[REASON_BYTES];
  while (plum_json_next(&cursor, NULL, &item)) {
    known *found;
    plum_attempt *attempt;
    if (!small_text(plum_json_member(item, "id"), id, sizeof id))
      return 0;
    if (!small_text(plum_json_member(item, "reason"), reason, sizeof reason))
      (void)snprintf(reason, sizeof reason, "canceled");
    found = known_find(worker, id);
    attempt = found == NULL ? NULL : found->attempt;
    if (attempt == NULL) {
      /* Not here, so it does not run here: that is what the daemon waits to hear. */
      if (found != NULL) {
        known_remove(worker, found);
        found->id[0] = '\0';
      }
      attempt = attempt_new(worker, id);
      if (attempt != NULL)
        attempt_end_by_us(attempt, NULL, NULL);
    } else if (attempt->state == ATTEMPT_WAITING) {
      attempt_stop(attempt, reason);
      attempt_end_by_us(attempt, NULL, NULL);
    } else if (attempt->state == ATTEMPT_RUNNING && !attempt->canceled) {
      attempt_stop(attempt, reason);
      tell_cancel(attempt);
    }
  }
  return 1;
}

static int64_t seconds_ms(plum_json value)
{
  double seconds = plum_json_double(value, 0);
  return seconds > 0 && seconds < 1e12 ? (int64_t)(seconds * 1000) : 0;
}

/* Takes one attempt in; 0 when it is no attempt. */
static int hear_attempt(plum_worker *worker, plum_json item)
{
  plum_json_cursor cursor = plum_json_walk(item);
  plum_json key, value, name = {NULL, 0, PLUM_JSON_NONE}, payload = {"null", 4, PLUM_JSON_NULL};
  plum_attempt *attempt;
  char id[ID_BYTES] = "";
  int64_t timeout_ms = 0, number = 1;
  while (plum_json_next(&cursor, &key, &value)) {
    if (plum_json_is(key, "id")) {
      if (!small_text(value, id, sizeof id) || strpbrk(id, "\"\\\n") != NULL)
        return 0;
    } else if (plum_json_is(key, "name")) {
      name = value;
    } else if (plum_json_is(key, "payload")) {
      payload = value;
    } else if (plum_json_is(key, "timeoutSec")) {
      timeout_ms = seconds_ms(value);
    } else if (plum_json_is(key, "attempt")) {
      number = plum_json_int(value, 1);
    }
  }
  if (id[0] == '\0' || name.type != PLUM_JSON_STRING)
    return 0;
  if (known_find(worker, id) != NULL)
    return 1;
  if ((attempt = attempt_new(worker, id)) == NULL)
    return 1; /* it is not held, so it comes again with the next line */
  (void)plum_json_text(name, &attempt->text);
  plum_buffer_add(&attempt->text, "\0", 1);
  attempt->payload_at = attempt->text.size_bytes;
  attempt->payload_bytes = payload.size_bytes;
  plum_buffer_add(&attempt->text, payload.text, payload.size_bytes);
  attempt->timeout_ms = timeout_ms;
  attempt->number = number > 0 && number < INT_MAX ? (int)number : 1;
  worker->figures.attempts++;
  if (attempt->text.failed) {
    attempt_end_by_us(attempt, PLUM_LOST, "the worker is out of memory");
  } else if (worker->leaving) {
    attempt_end_by_us(attempt, PLUM_LOST, "the worker is leaving");
  } else if ((attempt->task = task_find(worker, attempt->text.data)) == NULL) {
    int dropped = task_was_dropped(worker, attempt->text.data);
    attempt_end_by_us(attempt, dropped ? PLUM_LOST : "unknown_task",
                      dropped ? "the worker has dropped this task" : "the worker has no such task");
  } else {
    if (worker->journal.on) {
      journal_id(&worker->journal.pending, 'S', attempt);
      worker->hold_back = 1;
    }
    attempt->state = ATTEMPT_WAITING;
    list_add(&worker->waiting, attempt);
  }
  return 1;
}

static int hear_attempts(plum_worker *worker, plum_json items)
{
  plum_json_cursor cursor = plum_json_walk(items);
  plum_json item;
  while (plum_json_next(&cursor, NULL, &item))
    if (!hear_attempt(worker, item))
      return 0;
  return 1;
}

static int hear_registered(plum_worker *worker, plum_json terms)
{
  double beat = plum_json_double(plum_json_member(terms, "beatSec"), 0);
  double lease = plum_json_double(plum_json_member(terms, "leaseSec"), 0);
  int64_t items = plum_json_int(plum_json_member(terms, "itemsMax"), PLUM_ITEMS_MAX);
  int64_t bytes = plum_json_int(plum_json_member(terms, "bytesMax"), PLUM_MESSAGE_BYTES_MAX);
  if (!(beat >= 0.01) || !(beat < 1e6) || !(lease >= beat) || !(lease < 1e8) || items < 1
      || bytes < PLUM_VALUE_BYTES_MAX)
    return 0;
  worker->beat_ms = (int64_t)(beat * 1000);
  worker->lease_ms = (int64_t)(lease * 1000);
  worker->items_max = items < PLUM_ITEMS_MAX ? (size_t)items : PLUM_ITEMS_MAX;
  worker->bytes_max = bytes < PLUM_MESSAGE_BYTES_MAX ? (size_t)bytes : PLUM_MESSAGE_BYTES_MAX;
  worker->log_acks = plum_json_bool(plum_json_member(terms, "logAcks"), 0);
  worker->registered = 1;
  worker->figures.registrations++;
  return 1;
}

/* What the daemon says last: it ends the line, and what makes another try useless the worker. */
static plum_status hear_error(plum_worker *worker, plum_json error)
{
  char code[64], *message;
  if (!small_text(plum_json_member(error, "code"), code, sizeof code))
    return PLUM_E_PROTOCOL;
  if (worker->bye_said)
    return PLUM_E_CLOSED;
  message = json_copy(plum_json_member(error, "message"));
  worker_say(worker, 0, "the daemon closes the line: %s: %s", code, or_empty(message));
  free(message);
  if (strcmp(code, "session_replaced") == 0)
    return PLUM_E_REPLACED;
  return strcmp(code, "unsupported_version") == 0 ? PLUM_E_VERSION : PLUM_E_CLOSED;
}

/* The daemon lives. What it says after a lease without a word may be older than that. The answer to
 * a long poll may come long after the daemon heard of us. */
static void heard(plum_worker *worker, int64_t now)
{
  if (worker->heard_ms != 0 && now >= worker->heard_ms + worker->lease_ms)
    desk_give_up(worker, "the lease ended without a word from the daemon");
  worker->heard_ms = worker->long_poll ? worker->sent_ms : now;
  worker->ping_ms = 0;
  worker->lease_over = 0;
}

/* One message of the daemon, checked whole before anything of it is done. */
static plum_status hear(plum_worker *worker, const char *text, size_t size)
{
  static const char *const names[] = {"registered", "ack", "refused", "attempts", "cancel",
                                      "error", "logAck"};
  plum_json said[7], message, key, value;
  plum_json_cursor cursor;
  int64_t ack, log_ack, now;
  size_t i;
  int well, was_registered = worker->registered;
  memset(said, 0, sizeof said);
  if (json_parse(text, size, PLUM_DEPTH_MAX + 3, &message) != PLUM_OK
      || message.type != PLUM_JSON_OBJECT)
    return PLUM_E_PROTOCOL;
  for (cursor = plum_json_walk(message); plum_json_next(&cursor, &key, &value);)
    for (i = 0; i < sizeof names / sizeof *names; i++)
      if (plum_json_is(key, names[i]))
        said[i] = value;
  if (said[5].type == PLUM_JSON_OBJECT)
    return hear_error(worker, said[5]);
  ack = plum_json_int(said[1], 0);
  log_ack = plum_json_int(said[6], 0);
  if (ack < 0 || (uint64_t)ack > worker->seq || log_ack < 0)
    return PLUM_E_PROTOCOL;
  lock(worker);
  now = now_ms();
  heard(worker, now);
  well = (said[0].type != PLUM_JSON_OBJECT) == was_registered
         && (uint64_t)log_ack <= worker->logs_seq;
  if (well && !was_registered)
    well = hear_registered(worker, said[0]);
  if (well) {
    hear_log_ack(worker, (uint64_t)log_ack);
    hear_ack(worker, (uint64_t)ack);
    well = hear_refused(worker, said[2]) && hear_attempts(worker, said[3])
           && hear_cancel(worker, said[4]);
  }
  if (said[3].type != PLUM_JSON_NONE)
    worker->change_ms = worker->pace.moved_ms = now;
  unlock(worker);
  if (worker->registered && !was_registered)
    worker_say(worker, 1, "registered as %s: lease %lld ms, beat %lld ms", worker->id,
               (long long)worker->lease_ms, (long long)worker->beat_ms);
  return well ? PLUM_OK : PLUM_E_PROTOCOL;
}

/* ================================================================== 16 the line */

#define DIAL_MS 1500        /* a fresh try gets through a network that has just come back */
#define HANDSHAKE_MS 10000
#define REGISTER_MS 10000
#define SEND_MS 30000
#define PING_MS_MIN 500
#define RETRY_MS_FIRST 250
#define RETRY_MS_MAX 15000
#define REDIAL_MS_MAX 1500  /* where nobody answers, a try costs the daemon nothing */
#define SETTLED_MS 5000     /* a line that held so long works: the next pauses start small again */
#define READS_MAX 16        /* in one step, so that the line is written too */

#ifdef __linux__
static void epoll_forget(plum_worker *worker)
{
  if (worker->epoll_fd >= 0 && worker->epoll_line >= 0)
    (void)epoll_ctl(worker->epoll_fd, EPOLL_CTL_DEL, worker->epoll_line, NULL);
  worker->epoll_line = -1;
}

static void epoll_watch(plum_worker *worker)
{
  struct epoll_event event;
  int fds[2], events[2];
  if (worker->epoll_fd < 0 || plum_worker_fds(worker, fds, events) < 2)
    return;
  if (worker->epoll_line == fds[1] && worker->epoll_events == events[1]
      && worker->state != LINE_CONNECTING) /* then the number may be another socket's by now */
    return;
  memset(&event, 0, sizeof event);
  event.events = (events[1] & PLUM_READ ? EPOLLIN : 0u) | (events[1] & PLUM_WRITE ? EPOLLOUT : 0u);
  if (epoll_ctl(worker->epoll_fd, EPOLL_CTL_MOD, fds[1], &event) == 0
      || epoll_ctl(worker->epoll_fd, EPOLL_CTL_ADD, fds[1], &event) == 0) {
    worker->epoll_line = fds[1];
    worker->epoll_events = events[1];
  }
}
#else
static void epoll_forget(plum_worker *worker) { (void)worker; }
static void epoll_watch(plum_worker *worker) { (void)worker; }
#endif

/* The line is over, or came to nothing: dial again after a pause, which grows with each try. */
static void line_lost(plum_worker *worker, plum_status why)
{
  int64_t now = now_ms(), base_ms = now;
  int64_t limit_ms = why == PLUM_E_UNREACHABLE ? REDIAL_MS_MAX : RETRY_MS_MAX;
  if (worker->registered && now - worker->opened_ms > SETTLED_MS)
    worker->tries = 0;
  if (why == PLUM_E_UNREACHABLE)
    base_ms = worker->opened_ms;
  if (worker->tries < 2 && !worker->bye_said && why != PLUM_AGAIN)
    worker_say(worker, 0, "no line to %s: %s", worker->where.netloc, plum_status_text(why));
  epoll_forget(worker);
  conn_close(&worker->line);
  lock(worker);
  desk_rewind(worker);
  worker->figures.connected = 0;
  unlock(worker);
  worker->state = LINE_DOWN;
  worker->registered = worker->asked = worker->drain_said = 0;
  worker->ping_ms = worker->stuck_ms = 0;
  worker->retry_ms = base_ms + jitter_ms(&worker->source, RETRY_MS_FIRST, worker->tries, limit_ms);
  worker->tries++;
  if (worker->bye_said)
    worker->ending = OVER;
  if (why == PLUM_E_REPLACED || why == PLUM_E_VERSION) {
    worker->outcome = why;
    worker->ending = OVER;
  }
}

static void line_dial(plum_worker *worker, int64_t now)
{
  plum_status status;
  worker->opened_ms = now;
  worker->until_ms = now + (worker->transport == NULL ? DIAL_MS : HANDSHAKE_MS);
  worker->state = LINE_CONNECTING;
  status = conn_open(&worker->line, worker->transport, &worker->where);
  if (status == PLUM_E_TLS && worker->transport == NULL)
    worker_say(worker, 0, "https needs a transport: see plum_worker_set_transport");
  if (status != PLUM_OK)
    line_lost(worker, status);
}

static void line_path(plum_worker *worker, plum_buffer *path, const char *tail)
{
  add_text(path, "/v1/embedded-workers/");
  add_percent(path, worker->id, "");
  add_text(path, tail);
}

static void line_connected(plum_worker *worker, int64_t now)
{
  plum_buffer path = {0}, more = {0};
  worker->opened_ms = now;
  worker->until_ms = now + HANDSHAKE_MS;
  worker->sent_ms = now;
  worker->state = worker->long_poll ? LINE_OPEN : LINE_UPGRADING;
  plum_http_reader_begin(worker->http, 0);
  if (worker->long_poll)
    return;
  add_text(&path, worker->where.base);
  line_path(worker, &path, "/stream");
  if (worker->token != NULL)
    plum_buffer_print(&more, "Authorization: Bearer %s\r\n", worker->token);
  chance_bytes(&worker->source, worker->key, sizeof worker->key);
  if (!path.failed)
    plum_ws_request(&worker->line.out, worker->where.netloc, path.data, worker->key, more.data);
  plum_buffer_free(&path);
  plum_buffer_free(&more);
}

/* Says why there is no stream, with as much of the answer's body as came with its head. */
static plum_status line_refused(plum_worker *worker)
{
  conn *line = &worker->line;
  int code = plum_http_reader_status(worker->http);
  plum_http_event event = PLUM_HTTP_MORE;
  plum_piece said = {"", 0};
  size_t used;
  plum_status status = http_status_of(code);
  if (plum_http_reader_feed(worker->http, line->in + line->in_at, line->in_size - line->in_at,
                            &used, &event, &said) != PLUM_OK || event != PLUM_HTTP_BODY)
    said.size_bytes = 0;
  worker_say(worker, 0, "the daemon refuses the stream: HTTP %d %.*s", code,
             (int)said.size_bytes, said.data);
  return status == PLUM_OK ? PLUM_E_PROTOCOL : status;
}

/* The answer to the upgrade. */
static plum_status line_upgraded(plum_worker *worker)
{
  conn *line = &worker->line;
  plum_http_event event;
  plum_piece piece;
  size_t used;
  plum_status status = plum_http_reader_feed(worker->http, line->in + line->in_at,
                                             line->in_size - line->in_at, &used, &event, &piece);
  line->in_at += used;
  if (status != PLUM_OK || event == PLUM_HTTP_MORE)
    return status;
  if (!plum_ws_accepted(worker->http, worker->key))
    return line_refused(worker);
  plum_ws_reader_free(worker->ws);
  worker->ws = NULL;
  status = plum_ws_reader_new(PLUM_MESSAGE_BYTES_MAX, &worker->ws);
  worker->state = LINE_OPEN;
  worker->until_ms = now_ms() + REGISTER_MS;
  return status;
}

static void line_frame(plum_worker *worker, plum_ws_event kind, const char *data, size_t size)
{
  unsigned char mask[4];
  chance_bytes(&worker->source, mask, 4);
  plum_ws_frame(&worker->line.out, kind, data, size, mask);
}

static void speak(plum_worker *worker);

/* Starts what waits: here and now, or by waking threads. */
static void desk_work(plum_worker *worker)
{
  int64_t now, begun_ns, pause_ns;
  plum_attempt *attempt;
  if (worker->journal.on)
    journal_sync(worker);
  lock(worker);
  worker->hold_back = 0;
  if (!worker->handlers_inline) {
    if (worker->waiting.count > 0)
      (void)pthread_cond_broadcast(&worker->work);
    unlock(worker);
    return;
  }
  begun_ns = now_ns();
  pause_ns = begun_ns + SLICE_NS;
  while ((attempt = worker->waiting.first) != NULL) {
    now = attempt_run(attempt, begun_ns);
    if (worker->pace.asked && now >= begun_ns + STUCK_MS * INT64_C(1000000))
      give_back(worker);
    if (worker->waiting.first != NULL && now >= pause_ns) {
      unlock(worker);
      speak(worker);
      lock(worker);
      now = now_ns();
      pause_ns = now + SLICE_NS;
    }
    begun_ns = now; /* where the last one ended: a clock costs more than all that lies between */
  }
  unlock(worker);
}

static plum_status line_event(plum_worker *worker, plum_ws_event event, const plum_piece *content,
                              int close_code)
{
  static const char going[2] = {3, (char)0xE8}; /* 1000 */
  plum_status status = PLUM_OK;
  switch (event) {
  case PLUM_WS_TEXT:
    status = hear(worker, content->data, content->size_bytes);
    if (status == PLUM_OK)
      desk_work(worker);
    break;
  case PLUM_WS_BINARY:
    status = PLUM_E_PROTOCOL;
    break;
  case PLUM_WS_PING:
    line_frame(worker, PLUM_WS_PONG, content->data, content->size_bytes);
    break;
  case PLUM_WS_CLOSE:
    line_frame(worker, PLUM_WS_CLOSE, going, close_code == 1005 ? 0 : 2);
    (void)conn_flush(&worker->line);
    status = PLUM_E_CLOSED;
    break;
  case PLUM_WS_PONG:
    lock(worker);
    heard(worker, now_ms());
    unlock(worker);
    break;
  case PLUM_WS_MORE:
    break;
  }
  return status;
}

/* What was received on an open stream, up to one message. */
static plum_status line_listen(plum_worker *worker)
{
  static const char wrong[2] = {3, (char)0xEA}; /* 1002 */
  conn *line = &worker->line;
  plum_ws_event event;
  plum_piece content = {NULL, 0};
  int close_code = 1005;
  size_t used = 0;
  plum_status status = plum_ws_reader_feed(worker->ws, line->in + line->in_at,
                                           line->in_size - line->in_at, &used, &event, &content,
                                           &close_code);
  line->in_at += used;
  if (status == PLUM_OK && event != PLUM_WS_MORE)
    status = line_event(worker, event, &content, close_code);
  if (status == PLUM_E_PROTOCOL) {
    line_frame(worker, PLUM_WS_CLOSE, wrong, 2);
    (void)conn_flush(line);
  }
  return status;
}

/* The daemon has this session no more: another process has taken the id, or the daemon was started
 * again or the lease is over, and it wants to be told who we are. */
static plum_status poll_replaced(plum_worker *worker)
{
  plum_json problem;
  size_t size;
  const char *body = plum_reply_body(&worker->answer, &size);
  if (plum_json_parse(body, size, &problem) == PLUM_OK
      && plum_json_is(plum_json_member(problem, "code"), "session_replaced"))
    return PLUM_E_REPLACED;
  worker->registered = 0;
  lock(worker);
  desk_rewind(worker);
  worker->figures.connected = 0;
  unlock(worker);
  return PLUM_OK;
}

/* The answer to a long poll, as far as it came. */
static plum_status poll_listen(plum_worker *worker)
{
  plum_reply *answer = &worker->answer;
  plum_status status = reply_read(&worker->line, worker->http, answer);
  if (status != PLUM_OK)
    return status == PLUM_AGAIN ? PLUM_OK : status;
  worker->asked = 0;
  status = http_status_of(answer->status);
  if (status == PLUM_OK)
    status = hear(worker, plum_reply_body(answer, NULL), answer->body.size_bytes);
  else if (status == PLUM_E_CONFLICT)
    return poll_replaced(worker);
  if (status != PLUM_OK) {
    worker_say(worker, 0, "the daemon refuses the exchange: HTTP %d %s", answer->status,
               plum_reply_body(answer, NULL));
    return status;
  }
  lock(worker);
  desk_rewind(worker); /* what this answer does not acknowledge */
  unlock(worker);
  if (worker->bye_said)
    return PLUM_E_CLOSED;
  desk_work(worker);
  return plum_http_reader_keeps_alive(worker->http) ? PLUM_OK : PLUM_E_CLOSED;
}

static void poll_ask(plum_worker *worker, int64_t now)
{
  plum_buffer path = {0};
  line_path(worker, &path, "/exchange");
  plum_http_reader_begin(worker->http, 0);
  buffer_clear(&worker->answer.body, 65536);
  buffer_clear(&worker->answer.headers, 65536);
  if (!path.failed)
    add_request(&worker->line.out, &worker->where, worker->token, "POST", path.data, NULL,
                worker->say.data + 1, worker->say.size_bytes - 1);
  worker->asked = 1;
  worker->until_ms = now + worker->wait_ms + SEND_MS;
  plum_buffer_free(&path);
}

/* Says what there is to say, as soon as the line is free for it. */
static void speak(plum_worker *worker)
{
  int64_t now = now_ms();
  conn *line = &worker->line;
  plum_status status;
  int says, pings, free = line->out_at >= line->out.size_bytes;
  if (worker->state != LINE_OPEN || (worker->long_poll && worker->asked))
    free = 0;
  if (free && !worker->bye_said) {
    if (worker->journal.on)
      journal_sync(worker);
    lock(worker);
    says = collect(worker, now);
    unlock(worker);
    pings = !worker->long_poll && worker->registered && worker->ping_ms == 0
            && now >= worker->heard_ms + worker->beat_ms - (says ? worker->beat_ms / 4 : 0);
    if (says && worker->long_poll)
      poll_ask(worker, now);
    else if (says)
      line_frame(worker, PLUM_WS_TEXT, worker->say.data + 1, worker->say.size_bytes - 1);
    if (says) {
      worker->asked = 1;
      worker->sent_ms = now;
    }
    if (pings) {
      line_frame(worker, PLUM_WS_PING, "", 0);
      worker->ping_ms = now;
    }
    buffer_clear(&worker->say, 262144);
  }
  if (line->out_at >= line->out.size_bytes || !line->connected)
    return;
  status = line->out.failed ? PLUM_E_MEMORY : conn_flush(line);
  if (status == PLUM_OK)
    worker->stuck_ms = 0;
  else if (status != PLUM_AGAIN)
    line_lost(worker, status);
  else if (worker->stuck_ms == 0)
    worker->stuck_ms = now;
}

/* Reads what is there. */
static plum_status line_read(plum_worker *worker)
{
  int reads;
  for (reads = 0; reads < READS_MAX && worker->line.stream != NULL; reads++) {
    plum_status status = conn_fill(&worker->line);
    if (status == PLUM_AGAIN)
      return PLUM_OK;
    if (status == PLUM_OK)
      status = worker->state == LINE_UPGRADING ? line_upgraded(worker)
               : worker->long_poll ? poll_listen(worker) : line_listen(worker);
    if (status != PLUM_OK)
      return status;
    lock(worker);
    worker->figures.connected = worker->registered;
    unlock(worker);
    if (worker->long_poll && !worker->asked)
      return PLUM_OK;
  }
  return PLUM_OK;
}

/* When the line, in its state, is taken for dead. */
static int64_t line_deadline_ms(plum_worker *worker)
{
  int64_t until_ms = INT64_MAX;
  if (worker->state != LINE_OPEN || (worker->long_poll ? worker->asked : !worker->registered))
    until_ms = worker->until_ms;
  if (worker->ping_ms != 0)
    until_ms = earlier(until_ms, worker->ping_ms + (worker->beat_ms / 2 > PING_MS_MIN
                                                    ? worker->beat_ms / 2 : PING_MS_MIN));
  if (worker->stuck_ms != 0)
    until_ms = earlier(until_ms, worker->stuck_ms + SEND_MS);
  return until_ms;
}

static void line_step(plum_worker *worker, int64_t now)
{
  plum_status status = PLUM_OK;
  if (worker->state == LINE_DOWN) {
    if (now < worker->retry_ms)
      return;
    line_dial(worker, now);
  }
  if (worker->state == LINE_CONNECTING) {
    status = conn_connect(&worker->line);
    if (status == PLUM_OK)
      line_connected(worker, now);
    else if (status == PLUM_AGAIN)
      status = PLUM_OK;
  }
  if (status == PLUM_OK && worker->state >= LINE_UPGRADING)
    status = line_read(worker);
  if (status == PLUM_OK && worker->state != LINE_DOWN && now_ms() >= line_deadline_ms(worker))
    status = worker->state == LINE_CONNECTING ? PLUM_E_UNREACHABLE : PLUM_E_TIMEOUT;
  if (status != PLUM_OK)
    line_lost(worker, status);
}

/* ================================================================== 17 running */

#define STOP_GRACE_MS 2000
#define FLUSH_MS 5000
#define GOODBYE_MS 1000

static char *own_name(void)
{
  char host[128] = "worker", name[192];
  chance source;
  (void)gethostname(host, sizeof host - 1);
  host[sizeof host - 1] = '\0';
  if (!chance_seed(&source))
    return NULL;
  (void)snprintf(name, sizeof name, "%s-%ld-%06llx", host, (long)getpid(),
                 (unsigned long long)(chance_draw(&source) & 0xFFFFFF));
  return text_copy(name, strlen(name));
}

plum_status plum_worker_new(const char *url, plum_worker **out)
{
  plum_worker *worker = calloc(1, sizeof *worker);
  plum_status status;
  *out = NULL;
  if (worker == NULL)
    return PLUM_E_MEMORY;
  worker->pid = getpid();
  worker->capacity = 4;
  worker->pace.width = 1;
  worker->beat_ms = 10000;
  worker->drain_timeout_ms = 30000;
  worker->wake[0] = worker->wake[1] = worker->epoll_fd = worker->epoll_line = -1;
  worker->journal.fd = worker->journal.lock_fd = -1;
  worker->items_max = PLUM_ITEMS_MAX;
  worker->bytes_max = PLUM_MESSAGE_BYTES_MAX;
  worker->buckets_count = 256;
  (void)pthread_mutex_init(&worker->lock, NULL);
  (void)pthread_cond_init(&worker->work, NULL);
  worker->buckets = calloc(worker->buckets_count, sizeof *worker->buckets);
  worker->id = own_name();
  status = address_parse(url, &worker->where);
  if (status == PLUM_OK && (worker->buckets == NULL || worker->id == NULL))
    status = PLUM_E_MEMORY;
  if (status == PLUM_OK)
    status = plum_http_reader_new(0, &worker->http);
  if (status == PLUM_OK)
    status = text_set(&worker->node, getenv("WORKER_NODE_ID"));
  if (status == PLUM_OK)
    status = text_set(&worker->instance, getenv("PLUM_INSTANCE_ID"));
  if (status == PLUM_OK)
    status = text_set(&worker->app, getenv("PLUM_APP_NAME"));
  if (status == PLUM_OK)
    status = text_set(&worker->app_version, getenv("PLUM_APP_VERSION"));
  if (status == PLUM_OK && !wake_open(worker->wake))
    status = PLUM_E_STATE;
  if (status != PLUM_OK)
    plum_worker_free(worker);
  else
    *out = worker;
  return status;
}

static void attempts_free(list *all)
{
  plum_attempt *attempt;
  while ((attempt = all->first) != NULL) {
    list_remove(attempt);
    plum_buffer_free(&attempt->text);
    plum_buffer_free(&attempt->report);
    plum_buffer_free(&attempt->progress);
    free(attempt);
  }
}

static void tasks_free(task *first)
{
  while (first != NULL) {
    task *next = first->next;
    free(first->name);
    free(first);
    first = next;
  }
}

void plum_worker_free(plum_worker *worker)
{
  list *lists[6];
  size_t i;
  char **texts[7];
  if (worker == NULL)
    return;
  journal_end(worker);
  conn_free(&worker->line);
  plum_http_reader_free(worker->http);
  plum_ws_reader_free(worker->ws);
  lists[0] = &worker->waiting;
  lists[1] = &worker->running;
  lists[2] = &worker->unsent;
  lists[3] = &worker->sent;
  lists[4] = &worker->held;
  lists[5] = &worker->unused;
  for (i = 0; i < 6; i++)
    attempts_free(lists[i]);
  tasks_free(worker->tasks);
  tasks_free(worker->dropped);
  texts[0] = &worker->id;
  texts[1] = &worker->token;
  texts[2] = &worker->node;
  texts[3] = &worker->instance;
  texts[4] = &worker->app;
  texts[5] = &worker->app_version;
  texts[6] = &worker->directory;
  for (i = 0; i < 7; i++)
    free(*texts[i]);
  address_free(&worker->where);
  plum_buffer_free(&worker->labels);
  plum_buffer_free(&worker->logs);
  plum_buffer_free(&worker->say);
  plum_buffer_free(&worker->answer.body);
  plum_buffer_free(&worker->answer.headers);
  free(worker->buckets);
  free(worker->over);
  wake_close(worker->wake);
  if (worker->epoll_fd >= 0)
    (void)close(worker->epoll_fd);
  (void)pthread_mutex_destroy(&worker->lock);
  (void)pthread_cond_destroy(&worker->work);
  free(worker);
}

static plum_status set_text(plum_worker *worker, char **place, const char *text)
{
  return worker->begun ? PLUM_E_STATE : text_set(place, text);
}

static plum_status set_int(plum_worker *worker, int *place, int number, int low, int high)
{
  if (worker->begun)
    return PLUM_E_STATE;
  if (number < low || number > high)
    return PLUM_E_INVALID;
  *place = number;
  return PLUM_OK;
}

plum_status plum_worker_set_id(plum_worker *worker, const char *worker_id)
{
  plum_status status;
  if (is_blank(worker_id) || strlen(worker_id) > 800 || strncmp(worker_id, "local:", 6) == 0)
    return PLUM_E_INVALID;
  status = set_text(worker, &worker->id, worker_id);
  worker->id_given = worker->id_given || status == PLUM_OK;
  return status;
}

plum_status plum_worker_set_token(plum_worker *worker, const char *token)
{
  return token != NULL && !is_clean(token) ? PLUM_E_INVALID
         : set_text(worker, &worker->token, token);
}

plum_status plum_worker_set_capacity(plum_worker *worker, int attempts)
{
  return set_int(worker, &worker->capacity, attempts, 1, PLUM_CAPACITY_MAX);
}

plum_status plum_worker_set_beat_ms(plum_worker *worker, int beat_ms)
{
  int number = 0;
  plum_status status = set_int(worker, &number, beat_ms, 50, 3600000);
  if (status == PLUM_OK)
    worker->beat_ms = number;
  return status;
}

plum_status plum_worker_set_drain_timeout_ms(plum_worker *worker, int timeout_ms)
{
  return set_int(worker, &worker->drain_timeout_ms, timeout_ms, 0, INT_MAX);
}

plum_status plum_worker_set_node(plum_worker *worker, const char *node_id)
{
  return set_text(worker, &worker->node, node_id);
}

plum_status plum_worker_set_instance(plum_worker *worker, const char *instance_id)
{
  return set_text(worker, &worker->instance, instance_id);
}

plum_status plum_worker_set_app(plum_worker *worker, const char *name, const char *version)
{
  plum_status status = set_text(worker, &worker->app, name);
  return status == PLUM_OK ? set_text(worker, &worker->app_version, version) : status;
}

plum_status plum_worker_set_label(plum_worker *worker, const char *name, const char *value)
{
  if (worker->begun)
    return PLUM_E_STATE;
  if (is_blank(name) || value == NULL)
    return PLUM_E_INVALID;
  if (worker->labels.size_bytes > 0)
    add_text(&worker->labels, ",");
  plum_buffer_add_json(&worker->labels, name, PLUM_Z);
  add_text(&worker->labels, ":");
  plum_buffer_add_json(&worker->labels, value, PLUM_Z);
  return worker->labels.failed ? PLUM_E_MEMORY : PLUM_OK;
}

plum_status plum_worker_set_long_poll(plum_worker *worker, int on)
{
  return set_int(worker, &worker->long_poll, on != 0, 0, 1);
}

plum_status plum_worker_set_directory(plum_worker *worker, const char *path)
{
  return set_text(worker, &worker->directory, path);
}

plum_status plum_worker_set_transport(plum_worker *worker, const plum_transport *transport)
{
  if (worker->begun)
    return PLUM_E_STATE;
  worker->transport = transport;
  return PLUM_OK;
}

plum_status plum_worker_set_log(plum_worker *worker, plum_log log, void *context)
{
  if (worker->begun)
    return PLUM_E_STATE;
  worker->log = log;
  worker->log_context = context;
  return PLUM_OK;
}

plum_status plum_worker_set_on_cancel(plum_worker *worker, plum_handler on_cancel, void *context)
{
  if (worker->begun)
    return PLUM_E_STATE;
  worker->on_cancel = on_cancel;
  worker->on_cancel_context = context;
  return PLUM_OK;
}

const char *plum_worker_id(plum_worker *worker) { return worker->id; }

plum_status plum_worker_add_task(plum_worker *worker, const char *name, plum_handler handler,
                                 void *context)
{
  task *added, **place;
  plum_status status = PLUM_OK;
  if (is_blank(name) || handler == NULL || *name == '!' || strlen(name) > 800)
    return PLUM_E_INVALID;
  added = calloc(1, sizeof *added);
  if (added == NULL || (added->name = text_copy(name, strlen(name))) == NULL) {
    free(added);
    return PLUM_E_MEMORY;
  }
  added->handler = handler;
  added->context = context;
  lock(worker);
  if (task_find(worker, name) != NULL) {
    status = PLUM_E_CONFLICT;
    tasks_free(added);
  } else {
    for (place = &worker->tasks; *place != NULL;)
      place = &(*place)->next;
    *place = added;
    worker->tasks_changed = 1;
    worker_wake(worker);
  }
  unlock(worker);
  return status;
}

plum_status plum_worker_drop_task(plum_worker *worker, const char *name)
{
  task **place, *found = NULL;
  if (is_blank(name))
    return PLUM_E_INVALID;
  lock(worker);
  for (place = &worker->tasks; *place != NULL && found == NULL;)
    if (strcmp((*place)->name, name) == 0) {
      found = *place;
      *place = found->next;
      found->next = worker->dropped;
      worker->dropped = found;
      worker->tasks_changed = 1;
      worker_wake(worker);
    } else {
      place = &(*place)->next;
    }
  unlock(worker);
  return found != NULL ? PLUM_OK : PLUM_E_NOT_FOUND;
}

/* In the child of a fork: the parent, and its other children, have that pipe and that name. */
static plum_status worker_fork(plum_worker *worker)
{
  char *name = worker->id_given ? NULL : own_name();
  if (!worker->id_given && name == NULL)
    return PLUM_E_MEMORY;
  if (name != NULL) {
    free(worker->id);
    worker->id = name;
  }
  wake_close(worker->wake);
  worker->pid = getpid();
  return wake_open(worker->wake) ? PLUM_OK : PLUM_E_STATE;
}

static plum_status worker_begin(plum_worker *worker)
{
  plum_status status = worker->pid == getpid() ? PLUM_OK : worker_fork(worker);
  unsigned char bytes[8];
  size_t i;
  if (status != PLUM_OK || !chance_seed(&worker->source))
    return status != PLUM_OK ? status : PLUM_E_STATE;
  worker->begun = 1;
  worker->lease_ms = 3 * worker->beat_ms;
  worker->over_count = (size_t)worker->capacity * 2;
  if (worker->over_count < OVER_IDS_MIN)
    worker->over_count = OVER_IDS_MIN;
  if (worker->over_count > OVER_IDS_MAX)
    worker->over_count = OVER_IDS_MAX;
  worker->over = calloc(worker->over_count, sizeof *worker->over);
  if (worker->over == NULL)
    return PLUM_E_MEMORY;
  status = journal_open(worker);
  if (worker->session[0] == '\0') {
    chance_bytes(&worker->source, bytes, sizeof bytes);
    for (i = 0; i < sizeof bytes; i++)
      (void)snprintf(worker->session + 2 * i, 3, "%02x", bytes[i]);
  }
  return status == PLUM_OK ? journal_begin(worker) : status;
}

/* What was asked for by drain, stop, and threads that have results. */
static void take_pokes(plum_worker *worker)
{
  char pokes[64];
  ssize_t count, i;
  while ((count = read(worker->wake[0], pokes, sizeof pokes)) > 0) {
    for (i = 0; i < count; i++)
      if (pokes[i] == 's')
        worker->stop_asked = 2;
      else if (pokes[i] == 'd' && worker->stop_asked == 0)
        worker->stop_asked = 1;
    if (count < (ssize_t)sizeof pokes)
      break;
  }
}

/* A long poll that waits holds up what we want to say: it is asked anew on another connection. */
static void end_wait(plum_worker *worker)
{
  if (!worker->long_poll || !worker->asked || worker->state != LINE_OPEN)
    return;
  line_lost(worker, PLUM_AGAIN);
  worker->retry_ms = 0;
  worker->tries--;
  worker->registered = 1; /* the session outlives the connection */
}

/* The graceful end, from drain to the last acknowledgement. Under the lock. */
static void wind_down(plum_worker *worker, int64_t now)
{
  size_t busy = worker->running.count + worker->waiting.count;
  if (worker->stop_asked == 2 && worker->ending < GOODBYE) {
    worker->leaving = 1;
    desk_abandon(worker, "the worker stopped");
    worker->ending = GOODBYE;
    worker->ending_ms = now + GOODBYE_MS;
  }
  if (worker->ending == SERVING && worker->stop_asked == 1) {
    worker->ending = DRAINING;
    worker->ending_ms = now + worker->drain_timeout_ms;
  }
  if (worker->ending == DRAINING && (busy == 0 || now >= worker->ending_ms)) {
    worker->leaving = 1;
    if (busy > 0)
      desk_give_up(worker, "the worker stopped");
    worker->ending = LEAVING;
    worker->ending_ms = now + STOP_GRACE_MS;
  }
  busy = worker->running.count + worker->waiting.count;
  if (worker->ending == LEAVING && (busy == 0 || now >= worker->ending_ms)) {
    if (busy > 0)
      desk_abandon(worker, "the worker stopped");
    worker->ending = FLUSHING;
    worker->ending_ms = now + FLUSH_MS;
  }
  if (worker->ending == FLUSHING
      && (worker->unsent.count + worker->sent.count == 0 || now >= worker->ending_ms)) {
    worker->ending = GOODBYE;
    worker->ending_ms = now + GOODBYE_MS;
  }
  if (worker->ending == GOODBYE && (!worker->registered || now >= worker->ending_ms))
    worker->ending = OVER;
}

static void watch_lease(plum_worker *worker, int64_t now)
{
  if (worker->heard_ms == 0 || worker->lease_over
      || now < worker->heard_ms + worker->lease_ms)
    return;
  worker->lease_over = 1;
  if (worker->running.count + worker->waiting.count > 0)
    desk_give_up(worker, "the lease ended without a word from the daemon");
}

/* poked: the wake-up pipe may have something. */
static plum_status step(plum_worker *worker, int poked)
{
  int64_t now = now_ms();
  enum ending before;
  size_t owed;
  if (worker->ending == OVER)
    return worker->outcome;
  if (!worker->begun) {
    worker->handlers_inline = worker->pace.width = 1;
    if ((worker->outcome = worker_begin(worker)) != PLUM_OK) {
      worker->ending = OVER;
      return worker->outcome;
    }
  }
  lock(worker);
  worker->awake = 1;
  unlock(worker);
  if (poked)
    take_pokes(worker);
  line_step(worker, now);
  journal_sync(worker); /* whether or not there is a line */
  before = worker->ending;
  lock(worker);
  watch_lease(worker, now_ms());
  if (worker->waiting.count > 0 && worker->pace.asked
      && now_ms() >= worker->pace.moved_ms + STUCK_MS)
    give_back(worker);
  wind_down(worker, now_ms());
  unlock(worker);
  if (before != worker->ending)
    end_wait(worker);
  speak(worker);
  epoll_watch(worker);
  lock(worker);
  wind_down(worker, now_ms());
  worker->awake = 0;
  owed = worker->unsent.count + worker->sent.count;
  unlock(worker);
  if (worker->ending != OVER)
    return PLUM_AGAIN;
  lock(worker);
  desk_give_up(worker, "the worker has ended"); /* only one that was turned away still has any */
  unlock(worker);
  if (worker->outcome == PLUM_OK && (worker->figures.given_up > 0 || owed > 0))
    worker->outcome = PLUM_E_CUT_SHORT;
  epoll_forget(worker);
  conn_close(&worker->line);
  journal_end(worker);
  return worker->outcome;
}

/* Whether the worker's loop is ours now: no handler steps the loop that called it. */
static int loop_take(plum_worker *worker)
{
  int taken;
  lock(worker);
  taken = !worker->stepping;
  worker->stepping = 1;
  unlock(worker);
  return taken;
}

static void loop_give(plum_worker *worker)
{
  lock(worker);
  worker->stepping = 0;
  unlock(worker);
}

plum_status plum_worker_step(plum_worker *worker)
{
  plum_status status;
  if (!loop_take(worker))
    return PLUM_E_STATE;
  status = step(worker, 1);
  loop_give(worker);
  return status;
}

int plum_worker_fds(plum_worker *worker, int fds[2], int events[2])
{
  fds[0] = worker->wake[0];
  events[0] = PLUM_READ;
  if (worker->state == LINE_DOWN || worker->line.stream == NULL)
    return 1;
  fds[1] = worker->line.transport->fd(worker->line.stream);
  events[1] = conn_events(&worker->line);
  return fds[1] < 0 ? 1 : 2;
}

int plum_worker_fd(plum_worker *worker)
{
#ifdef __linux__
  struct epoll_event event;
  if (worker->epoll_fd < 0) {
    memset(&event, 0, sizeof event);
    event.events = EPOLLIN;
    worker->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (worker->epoll_fd >= 0)
      (void)epoll_ctl(worker->epoll_fd, EPOLL_CTL_ADD, worker->wake[0], &event);
    epoll_watch(worker);
  }
#endif
  return worker->epoll_fd;
}

int plum_worker_next_deadline_ms(plum_worker *worker)
{
  int64_t now = now_ms(), until_ms = INT64_MAX;
  int free = worker->state == LINE_OPEN && worker->line.out_at >= worker->line.out.size_bytes
             && !worker->bye_said && !(worker->long_poll && worker->asked);
  size_t quiet;
  if (worker->ending == OVER || !worker->begun)
    return 0;
  lock(worker);
  if (worker->ending != SERVING)
    until_ms = worker->ending_ms;
  until_ms = earlier(until_ms, worker->state == LINE_DOWN ? worker->retry_ms
                               : conn_look_ms(&worker->line, line_deadline_ms(worker), now));
  if (free && (!worker->asked || (worker->tasks_changed && worker->registered)
               || (worker->unsent.count > 0 && (worker->registered || worker->logs_count == 0))))
    until_ms = now;
  if (free && worker->registered && !worker->long_poll) {
    until_ms = earlier(until_ms, worker->sent_ms + worker->beat_ms);
    if (worker->ping_ms == 0)
      until_ms = earlier(until_ms, worker->heard_ms + worker->beat_ms);
  }
  quiet = worker->progress_count + (worker->registered ? worker->logs_count : 0);
  if (free && quiet > 0)
    until_ms = earlier(until_ms, worker->progress_ms + PROGRESS_MS);
  if (!worker->lease_over && worker->heard_ms != 0
      && worker->running.count + worker->waiting.count > 0)
    until_ms = earlier(until_ms, worker->heard_ms + worker->lease_ms);
  if (worker->waiting.count > 0 && worker->pace.asked)
    until_ms = earlier(until_ms, worker->pace.moved_ms + STUCK_MS);
  if (worker->line.in_at < worker->line.in_size
      || (worker->handlers_inline && worker->waiting.count > 0))
    until_ms = now;
  unlock(worker);
  return poll_ms(until_ms, now);
}

/* A thread of plum_worker_run's. */
static void *thread_main(void *context)
{
  plum_worker *worker = context;
  lock(worker);
  while (!worker->threads_end) {
    if (worker->hold_back || worker->waiting.first == NULL)
      (void)pthread_cond_wait(&worker->work, &worker->lock);
    else
      (void)attempt_run(worker->waiting.first, now_ns());
  }
  unlock(worker);
  return NULL;
}

/* Starts them with all signals blocked: signals are the program's affair. */
static int threads_start(plum_worker *worker, pthread_t *threads, int count)
{
  sigset_t all, before;
  int started = 0;
  (void)sigfillset(&all);
  (void)pthread_sigmask(SIG_SETMASK, &all, &before);
  while (started < count && pthread_create(&threads[started], NULL, thread_main, worker) == 0)
    started++;
  (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
  return started;
}

static plum_status run_loop(plum_worker *worker)
{
  plum_status status;
  int poked = 1;
  while ((status = step(worker, poked)) == PLUM_AGAIN) {
    struct pollfd ready[2];
    int fds[2], events[2], i, count = plum_worker_fds(worker, fds, events);
    for (i = 0; i < count; i++) {
      ready[i].fd = fds[i];
      ready[i].events = poll_events(events[i]);
      ready[i].revents = 0;
    }
    poked = poll(ready, (nfds_t)count, plum_worker_next_deadline_ms(worker)) < 0
            || ready[0].revents != 0;
  }
  return status;
}

plum_status plum_worker_run(plum_worker *worker, int n_threads)
{
  pthread_t *threads = NULL;
  plum_status status;
  int i, started = 0;
  if (n_threads < 0 || n_threads > 4096)
    return PLUM_E_INVALID;
  if (!loop_take(worker))
    return PLUM_E_STATE;
  status = worker->begun ? PLUM_E_STATE : PLUM_OK;
  if (status == PLUM_OK && n_threads > 0
      && (threads = calloc((size_t)n_threads, sizeof *threads)) == NULL)
    status = PLUM_E_MEMORY;
  if (status != PLUM_OK) {
    loop_give(worker);
    return status;
  }
  status = worker_begin(worker);
  worker->handlers_inline = n_threads == 0;
  worker->pace.width = n_threads == 0 ? 1 : n_threads;
  if (status == PLUM_OK && n_threads > 0) {
    started = threads_start(worker, threads, n_threads);
    if (started == 0)
      status = PLUM_E_MEMORY;
  }
  if (status == PLUM_OK)
    status = run_loop(worker);
  worker->ending = OVER;
  worker->outcome = status;
  lock(worker);
  worker->threads_end = 1;
  (void)pthread_cond_broadcast(&worker->work);
  unlock(worker);
  for (i = 0; i < started; i++)
    (void)pthread_join(threads[i], NULL);
  free(threads);
  loop_give(worker);
  return status;
}

void plum_worker_drain(plum_worker *worker) { wake_poke(worker->wake, 'd'); }
void plum_worker_stop(plum_worker *worker) { wake_poke(worker->wake, 's'); }

void plum_worker_look(plum_worker *worker, plum_worker_figures *figures)
{
  lock(worker);
  *figures = worker->figures;
  figures->running = worker->running.count + worker->waiting.count;
  figures->owed = worker->unsent.count + worker->sent.count;
  unlock(worker);
}

/* ================================================================== 18 attempts */

const char *plum_attempt_id(const plum_attempt *attempt) { return attempt->known.id; }
const char *plum_attempt_name(const plum_attempt *attempt) { return attempt->text.data; }
int plum_attempt_number(const plum_attempt *attempt) { return attempt->number; }
int64_t plum_attempt_timeout_ms(const plum_attempt *attempt) { return attempt->timeout_ms; }
void plum_attempt_set_user(plum_attempt *attempt, void *user) { attempt->user = user; }
void *plum_attempt_user(const plum_attempt *attempt) { return attempt->user; }

const char *plum_attempt_payload(const plum_attempt *attempt, size_t *size_bytes)
{
  if (size_bytes != NULL)
    *size_bytes = attempt->payload_bytes;
  return attempt->text.data + attempt->payload_at;
}

int plum_attempt_canceled(const plum_attempt *attempt)
{
  int canceled;
  lock(attempt->worker);
  canceled = attempt->canceled;
  unlock(attempt->worker);
  return canceled;
}

const char *plum_attempt_cancel_reason(const plum_attempt *attempt)
{
  return plum_attempt_canceled(attempt) ? attempt->reason : "";
}

void plum_attempt_defer(plum_attempt *attempt)
{
  lock(attempt->worker);
  attempt->deferred = 1;
  attempt->worker->pace.never = 1;
  attempt->worker->pace.wanted = 0;
  unlock(attempt->worker);
}

void plum_attempt_progress(plum_attempt *attempt, double ratio, const char *text)
{
  plum_worker *worker = attempt->worker;
  plum_buffer *out = &attempt->progress;
  lock(worker);
  if (attempt->state == ATTEMPT_RUNNING) {
    buffer_clear(out, KEPT_BYTES);
    plum_buffer_print(out, "{\"id\":\"%s\"", attempt->known.id);
    if (ratio >= 0)
      plum_buffer_print(out, ratio >= 1 ? ",\"ratio\":1" : ",\"ratio\":0.%06d",
                        (int)((ratio < 1 ? ratio : 0) * 1e6));
    if (text != NULL && *text != '\0') {
      add_text(out, ",\"text\":");
      plum_buffer_add_json(out, text, cut_text(text, strlen(text), PROGRESS_TEXT_BYTES));
    }
    add_text(out, "}");
    worker->progress_count += !attempt->has_progress;
    attempt->has_progress = 1;
    worker_wake(worker);
  }
  unlock(worker);
}

/* How many bytes a text has that was made JSON, between its quotes. */
static size_t said_size(const char *at, const char *end)
{
  size_t size = 0;
  for (; at < end; size++)
    at += *at != '\\' ? 1 : at[1] == 'u' ? 6 : 2;
  return size;
}

/* A line that waits, with its place in the attempt's log. */
static void add_line(plum_attempt *attempt, const char *text, size_t size)
{
  plum_buffer *out = &attempt->worker->logs;
  size_t from;
  plum_buffer_print(out, "{\"id\":\"%s\",\"at\":%llu,\"text\":", attempt->known.id,
                    (unsigned long long)attempt->said_bytes);
  from = out->size_bytes + 1;
  plum_buffer_add_json(out, text, size);
  if (!out->failed)
    attempt->said_bytes += said_size(out->data + from, out->data + out->size_bytes - 1)
                           + (size == 0 || text[size - 1] != '\n');
  add_text(out, "}\n");
  attempt->worker->logs_count++;
}

void plum_attempt_log(plum_attempt *attempt, const char *text, size_t size_bytes)
{
  plum_worker *worker = attempt->worker;
  plum_buffer *out = &worker->logs;
  lock(worker);
  if (attempt->state != ATTEMPT_RUNNING || out->size_bytes > LOG_BYTES_MAX) {
    worker->logs_dropped++;
  } else {
    if (worker->logs_dropped > 0) {
      char note[64];
      int size = snprintf(note, sizeof note, "(%zu lines were dropped)", worker->logs_dropped);
      add_line(attempt, note, (size_t)size);
      worker->logs_dropped = 0;
    }
    add_line(attempt, text, cut_text(text, size_of(text, size_bytes), LOG_TEXT_BYTES));
    if (out->failed) {
      buffer_clear(out, 0);
      worker->logs_count = worker->logs_sent = worker->logs_sent_bytes = 0;
    }
    worker_wake(worker);
  }
  unlock(worker);
}

/* Whether the caller may end it: of several threads the first one. Then its report begins. */
static int may_end(plum_attempt *attempt)
{
  int first;
  lock(attempt->worker);
  first = !attempt->claimed && !attempt->ended;
  attempt->claimed = 1;
  unlock(attempt->worker);
  if (first)
    report_begin(attempt);
  return first;
}

static plum_status ended(plum_attempt *attempt, int failed)
{
  plum_worker *worker = attempt->worker;
  plum_status status = PLUM_OK;
  if (attempt->report.failed) {
    status = PLUM_E_MEMORY;
    failed = 1;
    report_begin(attempt);
    report_error(attempt, "out_of_memory", "the worker is out of memory", NULL);
  }
  lock(worker);
  attempt_end(attempt, failed);
  unlock(worker);
  return status;
}

/* It is the caller's to end, and this is how. */
static plum_status fail(plum_attempt *attempt, const char *code, const char *message, int retry,
                        int64_t retry_after_ms, const char *detail_json)
{
  plum_json detail;
  if (detail_json != NULL && plum_json_parse(detail_json, PLUM_Z, &detail) != PLUM_OK)
    detail_json = NULL; /* the failure itself matters more */
  if (detail_json != NULL && strlen(detail_json) > PLUM_VALUE_BYTES_MAX)
    detail_json = NULL;
  report_error(attempt, code == NULL ? "task_failed" : code, or_empty(message),
               detail_json);
  if (!retry)
    add_text(&attempt->report, ",\"retry\":false");
  if (retry_after_ms >= 0) {
    add_text(&attempt->report, ",\"retryAfterSec\":");
    add_seconds(&attempt->report, earlier(retry_after_ms, INT64_C(31536000000)));
  }
  return ended(attempt, 1);
}

plum_status plum_attempt_fail(plum_attempt *attempt, const char *code, const char *message,
                              int retry, int64_t retry_after_ms, const char *detail_json)
{
  return may_end(attempt) ? fail(attempt, code, message, retry, retry_after_ms, detail_json)
                          : PLUM_E_STATE;
}

static plum_status unfit(plum_attempt *attempt, const char *code, const char *message)
{
  (void)fail(attempt, code, message, 0, -1, NULL);
  return PLUM_E_INVALID;
}

plum_status plum_attempt_finish(plum_attempt *attempt, const char *json, size_t size_bytes)
{
  plum_json value;
  if (!may_end(attempt))
    return PLUM_E_STATE;
  if (json != NULL) {
    if (size_of(json, size_bytes) > PLUM_VALUE_BYTES_MAX)
      return unfit(attempt, "result_too_large", "the result has over 16 MiB");
    if (plum_json_parse(json, size_bytes, &value) != PLUM_OK)
      return unfit(attempt, "invalid_result", "the result is no JSON, or is nested too deeply");
    plum_buffer_add(&attempt->report, ",\"result\":", 10);
    plum_buffer_add(&attempt->report, value.text, value.size_bytes);
  }
  return ended(attempt, 0);
}

plum_status plum_attempt_stopped(plum_attempt *attempt)
{
  if (!may_end(attempt))
    return PLUM_E_STATE;
  return ended(attempt, 1);
}

/* The result as JSON; without the memory for it the attempt fails, and so is not null. */
static plum_status finish_with(plum_attempt *attempt, plum_buffer *json)
{
  plum_status status = PLUM_E_STATE;
  if (!json->failed) {
    status = plum_attempt_finish(attempt, json->data, json->size_bytes);
  } else if (may_end(attempt)) {
    attempt->report.failed = 1;
    status = ended(attempt, 1);
  }
  plum_buffer_free(json);
  return status;
}

plum_status plum_attempt_finish_text(plum_attempt *attempt, const char *text, size_t size_bytes)
{
  plum_buffer json = {0};
  plum_buffer_add_json(&json, text, size_bytes);
  return finish_with(attempt, &json);
}

plum_status plum_attempt_finish_bytes(plum_attempt *attempt, const void *data, size_t size_bytes)
{
  plum_buffer json = {0};
  plum_buffer_add(&json, "\"", 1);
  plum_buffer_add_base64(&json, data, size_bytes);
  plum_buffer_add(&json, "\"", 1);
  return finish_with(attempt, &json);
}

/* ================================================================== 19 devices */

#define CALLERS_MAX 16      /* connections of callbacks at once */
#define CALLER_MS 10000
#define CALLER_BYTES_MAX (1024 * 1024)
#define DEVICE_CALL_MS 5000

typedef struct device_state {
  struct device_state *next;
  char *name, *value;
  int dirty;
} device_state;

/* A connection of the daemon's to a device with callbacks. */
typedef struct caller {
  int fd;
  plum_http_reader *http;
  plum_buffer body;
  int64_t until_ms;
} caller;

struct plum_device {
  plum_client *client;
  char *id, *type, *node, *host;
  char session[17];
  plum_buffer state_desc, op_desc;
  plum_operation operation;
  void *context;
  plum_log log;
  void *log_context;
  int beat_ms, callbacks, port;
  pthread_mutex_t lock;
  device_state *states;     /* under the lock */
  int dirty;
  int wake[2], stop;
  int registered, tries;
  int64_t retry_ms, beat_due_ms;
  conn line;                /* of the long poll */
  plum_http_reader *http;
  plum_reply answer;
  plum_buffer answers;      /* of operations, for the next exchange */
  int asked;
  int64_t until_ms;
  int listener;
  caller callers[CALLERS_MAX];
};

plum_status plum_device_new(const char *url, const char *device_id, const char *type,
                            plum_device **out)
{
  plum_device *device = calloc(1, sizeof *device);
  plum_status status;
  int i;
  *out = NULL;
  if (device == NULL)
    return PLUM_E_MEMORY;
  device->beat_ms = 5000;
  device->wake[0] = device->wake[1] = device->listener = -1;
  for (i = 0; i < CALLERS_MAX; i++)
    device->callers[i].fd = -1;
  (void)pthread_mutex_init(&device->lock, NULL);
  status = is_blank(device_id) ? PLUM_E_INVALID : plum_client_new(url, &device->client);
  if (status == PLUM_OK)
    status = text_set(&device->id, device_id);
  if (status == PLUM_OK)
    status = text_set(&device->type, or_empty(type));
  if (status == PLUM_OK)
    status = text_set(&device->node, getenv("WORKER_NODE_ID"));
  if (status == PLUM_OK)
    status = plum_http_reader_new(0, &device->http);
  if (status == PLUM_OK && !wake_open(device->wake))
    status = PLUM_E_STATE;
  if (status != PLUM_OK) {
    plum_device_free(device);
    return status;
  }
  (void)plum_client_set_timeout_ms(device->client, DEVICE_CALL_MS);
  (void)snprintf(device->session, sizeof device->session, "%016llx",
                 (unsigned long long)chance_draw(&device->client->source));
  *out = device;
  return PLUM_OK;
}

static void caller_close(caller *one)
{
  if (one->fd >= 0)
    (void)close(one->fd);
  one->fd = -1;
  plum_http_reader_free(one->http);
  one->http = NULL;
  plum_buffer_free(&one->body);
}

void plum_device_free(plum_device *device)
{
  int i;
  if (device == NULL)
    return;
  while (device->states != NULL) {
    device_state *state = device->states;
    device->states = state->next;
    free(state->name);
    free(state->value);
    free(state);
  }
  for (i = 0; i < CALLERS_MAX; i++)
    caller_close(&device->callers[i]);
  wake_close(device->wake);
  if (device->listener >= 0)
    (void)close(device->listener);
  conn_free(&device->line);
  plum_http_reader_free(device->http);
  plum_buffer_free(&device->answer.body);
  plum_buffer_free(&device->answer.headers);
  plum_buffer_free(&device->answers);
  plum_buffer_free(&device->state_desc);
  plum_buffer_free(&device->op_desc);
  plum_client_free(device->client);
  free(device->id);
  free(device->type);
  free(device->node);
  free(device->host);
  (void)pthread_mutex_destroy(&device->lock);
  free(device);
}

plum_status plum_device_set_token(plum_device *device, const char *token)
{
  return plum_client_set_token(device->client, token);
}

plum_status plum_device_set_node(plum_device *device, const char *node_id)
{
  return text_set(&device->node, node_id);
}

plum_status plum_device_set_beat_ms(plum_device *device, int beat_ms)
{
  if (beat_ms < 100 || beat_ms > 3600000)
    return PLUM_E_INVALID;
  device->beat_ms = beat_ms;
  return PLUM_OK;
}

plum_status plum_device_set_transport(plum_device *device, const plum_transport *transport)
{
  return plum_client_set_transport(device->client, transport);
}

plum_status plum_device_set_log(plum_device *device, plum_log log, void *context)
{
  device->log = log;
  device->log_context = context;
  return PLUM_OK;
}

static void add_description(plum_buffer *out, const char *name, const char *value_type,
                            const char *unit)
{
  add_text(out, out->size_bytes == 0 ? "{" : ",{");
  add_member(out, "name", name);
  add_member(out, "type", value_type == NULL ? "string" : value_type);
  add_member(out, "value", "");
  add_member(out, "unit", or_empty(unit));
}

plum_status plum_device_add_state(plum_device *device, const char *name, const char *value_type,
                                  const char *unit)
{
  if (is_blank(name))
    return PLUM_E_INVALID;
  add_description(&device->state_desc, name, value_type, unit);
  add_text(&device->state_desc, "}");
  return device->state_desc.failed ? PLUM_E_MEMORY : PLUM_OK;
}

plum_status plum_device_add_operation(plum_device *device, const char *name,
                                      const char *value_type, const char *unit, const char *min,
                                      const char *max)
{
  if (is_blank(name))
    return PLUM_E_INVALID;
  add_description(&device->op_desc, name, value_type, unit);
  add_member(&device->op_desc, "min", or_empty(min));
  add_member(&device->op_desc, "max", or_empty(max));
  add_text(&device->op_desc, "}");
  return device->op_desc.failed ? PLUM_E_MEMORY : PLUM_OK;
}

plum_status plum_device_on_operation(plum_device *device, plum_operation operation, void *context)
{
  device->operation = operation;
  device->context = context;
  return PLUM_OK;
}

/* Whether a host stands for every address of the machine. */
static int is_any(const char *host)
{
  return host == NULL || *host == '\0' || strcmp(host, "0.0.0.0") == 0 || strcmp(host, "::") == 0;
}

plum_status plum_device_listen(plum_device *device, const char *host, int port)
{
  struct addrinfo hints, *addresses = NULL;
  struct sockaddr_storage own;
  socklen_t size = sizeof own;
  char text[16], service[16];
  int on = 1;
  if (port < 0 || port > 65535)
    return PLUM_E_INVALID;
  memset(&hints, 0, sizeof hints);
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  hints.ai_family = host == NULL ? AF_INET : AF_UNSPEC;
  (void)snprintf(text, sizeof text, "%d", port);
  if (getaddrinfo(host, text, &hints, &addresses) != 0)
    return PLUM_E_INVALID;
  if (device->listener >= 0)
    (void)close(device->listener);
  device->listener = socket(addresses->ai_family, SOCK_STREAM, 0);
  (void)setsockopt(device->listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (device->listener < 0 || !set_cloexec_nonblocking(device->listener)
      || bind(device->listener, addresses->ai_addr, addresses->ai_addrlen) != 0
      || listen(device->listener, 16) != 0
      || getsockname(device->listener, (struct sockaddr *)&own, &size) != 0
      || getnameinfo((struct sockaddr *)&own, size, NULL, 0, service, sizeof service,
                     NI_NUMERICSERV) != 0) {
    freeaddrinfo(addresses);
    if (device->listener >= 0)
      (void)close(device->listener);
    device->listener = -1;
    return PLUM_E_STATE;
  }
  freeaddrinfo(addresses);
  device->port = atoi(service);
  device->callbacks = 1;
  return text_set(&device->host, host);
}

plum_status plum_device_set_state(plum_device *device, const char *name, const char *value)
{
  device_state *state;
  plum_status status = PLUM_OK;
  if (is_blank(name) || value == NULL)
    return PLUM_E_INVALID;
  (void)pthread_mutex_lock(&device->lock);
  for (state = device->states; state != NULL && strcmp(state->name, name) != 0;)
    state = state->next;
  if (state == NULL && (state = calloc(1, sizeof *state)) != NULL) {
    state->name = text_copy(name, strlen(name));
    state->next = device->states;
    if (state->name != NULL) {
      device->states = state;
    } else {
      free(state);
      state = NULL;
    }
  }
  status = state == NULL ? PLUM_E_MEMORY : text_set(&state->value, value);
  if (status == PLUM_OK) {
    state->dirty = 1;
    if (!device->dirty)
      wake_poke(device->wake, 'w');
    device->dirty = 1;
  }
  (void)pthread_mutex_unlock(&device->lock);
  return status;
}

void plum_device_stop(plum_device *device) { wake_poke(device->wake, 's'); }

static void device_say(plum_device *device, int level, const char *text)
{
  if (device->log != NULL)
    device->log(device->log_context, level, text);
}

/* A status, and what the daemon said of it. */
static void device_say_why(plum_device *device, plum_status why)
{
  plum_problem problem = plum_client_problem(device->client);
  plum_buffer text = {0};
  plum_buffer_print(&text, "%s%s%s%s%s", plum_status_text(why), *problem.field != '\0' ? ": " : "",
                    problem.field, *problem.detail != '\0' ? ": " : "", problem.detail);
  device_say(device, 0, text.failed ? plum_status_text(why) : text.data);
  plum_buffer_free(&text);
}

/* `"timestamp":..,"states":{..}` of what changed; 0 when nothing did. all: of everything. */
static int add_states(plum_device *device, plum_buffer *out, int all)
{
  struct timespec now;
  const char *comma = "";
  device_state *state;
  (void)clock_gettime(CLOCK_REALTIME, &now);
  (void)pthread_mutex_lock(&device->lock);
  for (state = device->states; state != NULL; state = state->next) {
    if (!state->dirty && !all)
      continue;
    if (*comma == '\0')
      plum_buffer_print(out, ",\"timestamp\":%lld,\"states\":{",
                        (long long)now.tv_sec * 1000 + now.tv_nsec / 1000000);
    add_text(out, comma);
    plum_buffer_add_json(out, state->name, PLUM_Z);
    add_text(out, ":");
    plum_buffer_add_json(out, state->value, PLUM_Z);
    state->dirty = 0;
    comma = ",";
  }
  device->dirty = 0;
  (void)pthread_mutex_unlock(&device->lock);
  if (*comma == ',')
    add_text(out, "}");
  return *comma == ',';
}

/* They were not taken: all are sent again. */
static void states_again(plum_device *device)
{
  device_state *state;
  (void)pthread_mutex_lock(&device->lock);
  for (state = device->states; state != NULL; state = state->next)
    device->dirty = state->dirty = 1;
  (void)pthread_mutex_unlock(&device->lock);
}

/* Where the daemon finds us: the address by which we reach it stands in for "every address". */
static void add_own_url(plum_device *device, plum_buffer *url)
{
  struct sockaddr_storage own;
  socklen_t size = sizeof own;
  char host[64];
  const char *shown = device->host;
  conn *line = &device->client->line;
  if (is_any(device->host)) {
    shown = "127.0.0.1";
    (void)client_call(device->client, "GET", "/healthz", NULL, NULL, 0, 0, 1, NULL);
    if (line->stream != NULL
        && getsockname(line->transport->fd(line->stream), (struct sockaddr *)&own, &size) == 0
        && getnameinfo((struct sockaddr *)&own, size, host, sizeof host, NULL, 0, NI_NUMERICHOST)
               == 0)
      shown = host;
  }
  plum_buffer_print(url, strchr(shown, ':') != NULL ? "http://[%s]:%d/" : "http://%s:%d/", shown,
                    device->port);
}

static plum_status device_register(plum_device *device)
{
  plum_buffer body = {0}, url = {0};
  plum_status status;
  if (device->callbacks)
    add_own_url(device, &url);
  add_text(&body, "{");
  add_member(&body, "resourceId", device->id);
  add_member(&body, "nodeId", or_empty(device->node));
  add_member(&body, "type", device->type);
  add_member(&body, "url", or_empty(url.data));
  plum_buffer_print(&body, ",\"stateDesc\":[%s],\"opDesc\":[%s]}",
                    or_empty(device->state_desc.data),
                    or_empty(device->op_desc.data));
  plum_buffer_free(&url);
  status = client_post(device->client, "/v1/resources/register", &body);
  if (status == PLUM_OK) {
    device->registered = 1;
    device->tries = 0;
    device->beat_due_ms = now_ms() + device->beat_ms;
    states_again(device);
    device_say(device, 1, "registered");
  }
  return status;
}

static void device_lost(plum_device *device, plum_status why)
{
  conn_close(&device->line);
  device->asked = 0;
  if (why == PLUM_E_NOT_FOUND || why == PLUM_E_UNREACHABLE)
    device->registered = 0; /* the daemon may have been another since */
  if (device->tries < 2)
    device_say_why(device, why);
  device->retry_ms = now_ms() + jitter_ms(&device->client->source, RECONNECT_MS_FIRST,
                                          device->tries++, RECONNECT_MS_MAX);
}

/* Carries out operations in order, up to the first that fails: the status for the daemon. */
static int device_operate(plum_device *device, plum_json operations, plum_buffer *said)
{
  plum_json_cursor cursor = plum_json_walk(operations);
  plum_json item;
  int status = 200;
  while (status == 200 && plum_json_next(&cursor, NULL, &item)) {
    plum_buffer name = {0}, value = {0};
    (void)plum_json_text(plum_json_member(item, "name"), &name);
    (void)plum_json_text(plum_json_member(item, "value"), &value);
    plum_buffer_add(&name, "", 0);
    plum_buffer_add(&value, "", 0);
    if (name.failed || value.failed) {
      status = 500;
    } else if (device->operation == NULL) {
      status = 501;
      add_text(said, "this device takes no operations");
    } else {
      status = device->operation(device->context, name.data, value.data, said);
      status = status == 0 ? 200 : status >= 400 && status <= 599 ? status : 500;
    }
    plum_buffer_free(&name);
    plum_buffer_free(&value);
  }
  return status;
}

static void poll_exchange(plum_device *device, int64_t now)
{
  plum_buffer path = {0}, body = {0};
  add_text(&path, "/v1/resources/");
  add_percent(&path, device->id, "");
  add_text(&path, "/exchange");
  plum_buffer_print(&body, "{\"session\":\"%s\",\"waitSec\":", device->session);
  add_seconds(&body, device->answers.size_bytes > 0 ? 0 : earlier(device->beat_ms, 60000));
  (void)add_states(device, &body, 0);
  if (device->answers.size_bytes > 0)
    plum_buffer_print(&body, ",\"answers\":[%s]", device->answers.data);
  add_text(&body, "}");
  plum_http_reader_begin(device->http, 0);
  buffer_clear(&device->answer.body, 65536);
  buffer_clear(&device->answer.headers, 65536);
  if (!path.failed && !body.failed)
    add_request(&device->line.out, &device->client->where, device->client->token, "POST",
                path.data, NULL, body.data, body.size_bytes);
  plum_buffer_free(&path);
  plum_buffer_free(&body);
  device->asked = 1;
  device->until_ms = now + device->beat_ms + DEVICE_CALL_MS;
}

/* The answer to the long poll: operations to carry out. */
static plum_status poll_answered(plum_device *device)
{
  plum_json message, item;
  plum_json_cursor cursor;
  plum_status status = http_status_of(device->answer.status);
  device->asked = 0;
  if (json_parse(plum_reply_body(&device->answer, NULL), device->answer.body.size_bytes,
                 JSON_DEPTH_ROOM, &message) != PLUM_OK)
    return status == PLUM_OK ? PLUM_E_PROTOCOL : status;
  if (plum_json_is(plum_json_member(message, "code"), "session_replaced"))
    return PLUM_E_REPLACED;
  if (status != PLUM_OK)
    return status;
  device->tries = 0;
  buffer_clear(&device->answers, 65536);
  cursor = plum_json_walk(plum_json_member(message, "operations"));
  while (plum_json_next(&cursor, NULL, &item)) {
    plum_buffer said = {0};
    char *id = json_copy(plum_json_member(item, "id"));
    int code = device_operate(device, plum_json_member(item, "operations"), &said);
    add_text(&device->answers, device->answers.size_bytes == 0 ? "{" : ",{");
    add_member(&device->answers, "id", id);
    plum_buffer_print(&device->answers, ",\"status\":%d", code);
    add_member(&device->answers, "body", said.data);
    add_text(&device->answers, "}");
    plum_buffer_free(&said);
    free(id);
  }
  return plum_http_reader_keeps_alive(device->http) ? PLUM_OK : PLUM_E_CLOSED;
}

static plum_status poll_step(plum_device *device, int64_t now)
{
  conn *line = &device->line;
  plum_status status = PLUM_OK;
  if (line->stream == NULL) {
    status = conn_open(line, device->client->transport, &device->client->where);
    device->until_ms = now + CONNECT_MS;
  }
  while (status == PLUM_OK) {
    status = conn_connect(line);
    if (status == PLUM_OK && !device->asked)
      poll_exchange(device, now);
    if (status == PLUM_OK)
      status = conn_flush(line);
    if (status == PLUM_OK)
      status = conn_fill(line);
    if (status == PLUM_OK)
      status = reply_read(line, device->http, &device->answer);
    if (status == PLUM_OK) {
      status = poll_answered(device);
      if (status == PLUM_E_CLOSED) { /* after a whole answer that is no loss */
        conn_close(line);
        return PLUM_OK;
      }
    }
  }
  if (status == PLUM_AGAIN)
    status = now >= device->until_ms ? PLUM_E_TIMEOUT : PLUM_OK;
  return status;
}

static plum_status device_beat(plum_device *device)
{
  plum_buffer body = {0};
  device->beat_due_ms = now_ms() + device->beat_ms;
  add_text(&body, "{");
  add_member(&body, "resourceId", device->id);
  add_member(&body, "nodeId", device->node);
  add_text(&body, "}");
  return client_post(device->client, "/v1/resources/heartbeat", &body);
}

static plum_status device_tell_states(plum_device *device)
{
  plum_buffer body = {0};
  plum_status status;
  add_text(&body, "{");
  add_member(&body, "resourceId", device->id);
  if (!add_states(device, &body, 0)) {
    plum_buffer_free(&body);
    return PLUM_OK;
  }
  add_text(&body, "}");
  status = client_post(device->client, "/v1/resources/state", &body);
  if (status != PLUM_OK && status != PLUM_E_REJECTED)
    states_again(device);
  return status == PLUM_E_REJECTED ? PLUM_OK : status;
}

static void callers_accept(plum_device *device, int64_t now)
{
  int fd, i;
  while ((fd = accept(device->listener, NULL, NULL)) >= 0) {
    caller *one = NULL;
    for (i = 0; i < CALLERS_MAX && one == NULL; i++)
      if (device->callers[i].fd < 0)
        one = &device->callers[i];
    if (one == NULL || !set_cloexec_nonblocking(fd)
        || plum_http_reader_new(1, &one->http) != PLUM_OK) {
      (void)close(fd);
      continue;
    }
    plum_http_reader_begin(one->http, 0);
    one->fd = fd;
    one->until_ms = now + CALLER_MS;
  }
}

/* The request is whole: carry out what it asks. 0 = the connection is over. */
static int caller_answer(plum_device *device, caller *one)
{
  plum_buffer said = {0}, out = {0};
  plum_json body, operations = {NULL, 0, PLUM_JSON_NONE};
  int code = 400, keeps = plum_http_reader_keeps_alive(one->http), sent;
  if (plum_json_parse(one->body.data, one->body.size_bytes, &body) == PLUM_OK)
    operations = plum_json_member(body, "operations");
  if (strcmp(plum_http_reader_method(one->http), "POST") != 0)
    code = 405;
  else if (operations.type == PLUM_JSON_ARRAY)
    code = device_operate(device, operations, &said);
  plum_buffer_print(&out, "HTTP/1.1 %d %s\r\nContent-Type: text/plain; charset=utf-8\r\n"
                    "Content-Length: %zu\r\n%s\r\n", code, code == 200 ? "OK" : "Refused",
                    said.size_bytes, keeps ? "" : "Connection: close\r\n");
  plum_buffer_add(&out, said.data, said.size_bytes);
  sent = !out.failed && send(one->fd, out.data, out.size_bytes, MSG_NOSIGNAL)
                            == (ssize_t)out.size_bytes;
  plum_buffer_free(&said);
  plum_buffer_free(&out);
  plum_http_reader_begin(one->http, 0);
  buffer_clear(&one->body, 65536);
  one->until_ms = now_ms() + CALLER_MS;
  return keeps && sent;
}

/* Reads what a caller sent. 0 = the connection is over. */
static int caller_read(plum_device *device, caller *one)
{
  char data[8192];
  ssize_t count = recv(one->fd, data, sizeof data, 0);
  size_t at = 0;
  if (count < 0)
    return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
  while (at < (size_t)count) {
    plum_http_event event;
    plum_piece piece;
    size_t used;
    if (plum_http_reader_feed(one->http, data + at, (size_t)count - at, &used, &event, &piece)
        != PLUM_OK)
      return 0;
    at += used;
    if (event == PLUM_HTTP_BODY)
      plum_buffer_add(&one->body, piece.data, piece.size_bytes);
    if (one->body.failed || one->body.size_bytes > CALLER_BYTES_MAX)
      return 0;
    if (event != PLUM_HTTP_MORE && one->http->state == HTTP_OVER && !caller_answer(device, one))
      return 0;
  }
  return count > 0;
}

/* Waits for what may happen next, and serves callbacks. */
static void device_wait(plum_device *device, int64_t until_ms)
{
  struct pollfd ready[3 + CALLERS_MAX];
  int64_t now = now_ms();
  char pokes[64];
  ssize_t count, i;
  nfds_t n;
  for (n = 0; n < 3 + CALLERS_MAX; n++) {
    ready[n].fd = -1;
    ready[n].events = POLLIN;
    ready[n].revents = 0;
  }
  ready[0].fd = device->wake[0];
  ready[1].fd = device->listener;
  if (device->line.stream != NULL) {
    ready[2].fd = device->line.transport->fd(device->line.stream);
    ready[2].events = poll_events(conn_events(&device->line));
    until_ms = conn_look_ms(&device->line, earlier(until_ms, device->until_ms), now);
  }
  for (i = 0; i < CALLERS_MAX; i++)
    if ((ready[3 + i].fd = device->callers[i].fd) >= 0)
      until_ms = earlier(until_ms, device->callers[i].until_ms);
  (void)poll(ready, n, poll_ms(until_ms, now));
  while ((count = read(device->wake[0], pokes, sizeof pokes)) > 0)
    for (i = 0; i < count; i++)
      device->stop = device->stop || pokes[i] == 's';
  for (i = 0; i < CALLERS_MAX; i++)
    if (device->callers[i].fd >= 0
        && ((ready[3 + i].revents != 0 && !caller_read(device, &device->callers[i]))
            || now_ms() >= device->callers[i].until_ms))
      caller_close(&device->callers[i]);
  if (ready[1].revents != 0)
    callers_accept(device, now_ms());
}

static plum_status device_step(plum_device *device)
{
  plum_status status = PLUM_OK;
  int dirty;
  if (!device->registered)
    status = device_register(device);
  (void)pthread_mutex_lock(&device->lock);
  dirty = device->dirty;
  (void)pthread_mutex_unlock(&device->lock);
  if (status == PLUM_OK && dirty && (device->callbacks || device->asked))
    status = device_tell_states(device);
  if (status == PLUM_OK && device->callbacks && now_ms() >= device->beat_due_ms)
    status = device_beat(device);
  if (status == PLUM_OK && !device->callbacks) {
    status = poll_step(device, now_ms());
    if (status != PLUM_OK)
      states_again(device);
  }
  return status;
}

plum_status plum_device_run(plum_device *device)
{
  device->stop = 0;
  while (!device->stop) {
    int64_t now = now_ms();
    plum_status status = now >= device->retry_ms ? device_step(device) : PLUM_OK;
    if (status == PLUM_E_REPLACED || status == PLUM_E_TLS || status == PLUM_E_MEMORY)
      return status;
    if (!device->registered && (status == PLUM_E_REJECTED || status == PLUM_E_DENIED)) {
      device_say_why(device, status);
      return status;
    }
    if (status != PLUM_OK)
      device_lost(device, status);
    now = now_ms();
    if (now < device->retry_ms)
      device_wait(device, device->retry_ms);
    else
      device_wait(device, device->callbacks ? device->beat_due_ms
                          : device->line.stream == NULL ? now : INT64_MAX);
  }
  conn_close(&device->line);
  device->asked = 0;
  return PLUM_OK;
}
