/* A worker for the tests:
 * scenarios URL ID THREADS [poll] [step] [dir=PATH] [notes=FILE] [beat=MS] [name=NAME]
 *
 * THREADS 0 runs handlers inline; `step` drives it from a loop of this program's own, by one
 * descriptor. SIGTERM drains, SIGUSR1 stops at once. What happens is printed, a line each. With
 * notes each start of an attempt is a line in that file. Tasks of the name NAME say in their
 * payload what to do: see tests/clients/orders.py.
 */
#define _POSIX_C_SOURCE 200809L
#include <plum.h>

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static plum_worker *worker;
static int notes = -1;

static void on_signal(int number)
{
  if (number == SIGUSR1)
    plum_worker_stop(worker);
  else
    plum_worker_drain(worker);
}

static void say(void *context, int level, const char *text)
{
  (void)context;
  printf("%d %s\n", level, text);
  fflush(stdout);
}

static void note(plum_attempt *attempt)
{
  char line[64];
  int size = snprintf(line, sizeof line, "%s\n", plum_attempt_id(attempt));
  if (notes >= 0 && write(notes, line, (size_t)size) != size)
    abort();
}

static void pause_ms(long ms)
{
  struct timespec pause;
  pause.tv_sec = ms / 1000;
  pause.tv_nsec = ms % 1000 * 1000000;
  nanosleep(&pause, NULL);
}

static plum_json payload_of(plum_attempt *attempt)
{
  plum_json value;
  size_t size;
  const char *text = plum_attempt_payload(attempt, &size);
  if (plum_json_parse(text, size, &value) != PLUM_OK)
    abort();
  return value;
}

static void echo(plum_attempt *attempt, void *context)
{
  size_t size;
  const char *payload = plum_attempt_payload(attempt, &size);
  (void)context;
  note(attempt);
  if (plum_attempt_finish(attempt, payload, size) != PLUM_OK)
    abort();
  if (plum_attempt_finish(attempt, payload, size) != PLUM_E_STATE) /* it has ended already */
    abort();
}

/* {"retry": bool, "afterMs": n}: fails with all that can be said. */
static void fail(plum_attempt *attempt, void *context)
{
  plum_json payload = payload_of(attempt);
  (void)context;
  note(attempt);
  plum_attempt_fail(attempt, "broken", "it \"broke\" \xff", plum_json_bool(
                        plum_json_member(payload, "retry"), 1),
                    plum_json_int(plum_json_member(payload, "afterMs"), -1), "{\"at\":7}");
}

/* Runs for payload ms or until it is told to end; says how far it is. */
static void nap(plum_attempt *attempt, void *context)
{
  long ms = (long)plum_json_int(payload_of(attempt), 0), done;
  (void)context;
  note(attempt);
  plum_attempt_log(attempt, "napping", PLUM_Z);
  for (done = 0; done < ms && !plum_attempt_canceled(attempt); done += 10) {
    plum_attempt_progress(attempt, (double)done / (double)ms, "napping");
    pause_ms(10);
  }
  if (plum_attempt_canceled(attempt)) {
    say(NULL, 1, plum_attempt_cancel_reason(attempt));
    return;
  }
  plum_attempt_finish(attempt, "\"rested\"", PLUM_Z);
}

static void *finish_later(void *attempt)
{
  pause_ms(20);
  plum_attempt_finish(attempt, "\"later\"", PLUM_Z);
  return NULL;
}

static void later(plum_attempt *attempt, void *context)
{
  pthread_t thread;
  (void)context;
  note(attempt);
  plum_attempt_defer(attempt);
  if (pthread_create(&thread, NULL, finish_later, attempt) != 0)
    abort();
  pthread_detach(thread);
}

static void text(plum_attempt *attempt, void *context)
{
  (void)context;
  plum_attempt_finish_text(attempt, "not \"JSON\"\n\xc3\xa9 \xfe", PLUM_Z);
}

static void bytes(plum_attempt *attempt, void *context)
{
  (void)context;
  plum_attempt_finish_bytes(attempt, "\0\1\2\377", 4);
}

static void no_json(plum_attempt *attempt, void *context)
{
  (void)context;
  if (plum_attempt_finish(attempt, "{no", 3) != PLUM_E_INVALID)
    abort();
}

static void silent(plum_attempt *attempt, void *context)
{
  (void)attempt;
  (void)context;
}

/* Adds or drops the name that the payload says. */
static void change_tasks(plum_attempt *attempt, void *context)
{
  plum_buffer name = {0};
  plum_status status = plum_json_text(payload_of(attempt), &name);
  if (status == PLUM_OK)
    status = context != NULL ? plum_worker_add_task(worker, name.data, echo, NULL)
                             : plum_worker_drop_task(worker, name.data);
  plum_attempt_finish_text(attempt, plum_status_text(status), PLUM_Z);
  plum_buffer_free(&name);
}

static void act_big(plum_attempt *attempt, size_t size)
{
  char *text = malloc(size + 2);
  if (text == NULL)
    abort();
  memset(text, 'x', size + 2);
  text[0] = text[size + 1] = '"';
  plum_attempt_finish(attempt, text, size + 2);
  free(text);
}

static void act_hold(plum_attempt *attempt, const char *gate)
{
  char line[64];
  int size = snprintf(line, sizeof line, "-%s\n", plum_attempt_id(attempt));
  while (access(gate, F_OK) != 0 && !plum_attempt_canceled(attempt))
    pause_ms(5);
  if (notes >= 0 && write(notes, line, (size_t)size) != size)
    abort();
  if (!plum_attempt_canceled(attempt))
    plum_attempt_finish(attempt, "\"held\"", PLUM_Z);
}

static void act_talk(plum_attempt *attempt, const char *gate)
{
  char text[64];
  int count = 0, size;
  for (; access(gate, F_OK) != 0 && !plum_attempt_canceled(attempt); count++) {
    size = snprintf(text, sizeof text, "%d \"\xc3\xa9\xf0\x9d\x84\x9e\xe2\x80\xa8\"\t\\%s", count,
                    count % 2 ? "\n" : "");
    plum_attempt_log(attempt, text, (size_t)size);
    pause_ms(1);
  }
  size = snprintf(text, sizeof text, "%d", count);
  plum_attempt_finish(attempt, text, (size_t)size);
}

static void act(plum_attempt *attempt, void *context)
{
  plum_json order = payload_of(attempt), wish = plum_json_member(order, "do");
  plum_json with = plum_json_member(order, "with");
  plum_buffer text = {0};
  (void)context;
  note(attempt);
  if (plum_json_is(wish, "echo")) {
    plum_attempt_finish(attempt, with.text, with.size_bytes);
  } else if (plum_json_is(wish, "who")) {
    plum_buffer_print(&text, "%ld", (long)getpid());
    plum_attempt_finish(attempt, text.data, text.size_bytes);
  } else if (plum_json_is(wish, "big")) {
    act_big(attempt, (size_t)plum_json_int(plum_json_member(order, "size"), 0));
  } else if (plum_json_is(wish, "fail")) {
    plum_json_text(with, &text);
    plum_attempt_fail(attempt, "asked", text.data,
                      plum_json_bool(plum_json_member(order, "retry"), 1), -1, NULL);
  } else {
    plum_json_text(plum_json_member(order, "gate"), &text);
    (plum_json_is(wish, "talk") ? act_talk : act_hold)(attempt, text.data);
  }
  plum_buffer_free(&text);
}

static void on_cancel(plum_attempt *attempt, void *context)
{
  char line[128];
  (void)context;
  snprintf(line, sizeof line, "cancel %s %s", plum_attempt_id(attempt),
           plum_attempt_cancel_reason(attempt));
  say(NULL, 1, line);
}

static plum_status step_loop(void)
{
  plum_status status;
  while ((status = plum_worker_step(worker)) == PLUM_AGAIN) {
    struct pollfd ready;
    ready.fd = plum_worker_fd(worker);
    ready.events = POLLIN;
    (void)poll(&ready, 1, plum_worker_next_deadline_ms(worker));
  }
  return status;
}

static int option(char **argv, const char *name, const char **value)
{
  size_t size = strlen(name);
  for (; *argv != NULL; argv++)
    if (strncmp(*argv, name, size) == 0 && ((*argv)[size] == '\0' || (*argv)[size] == '=')) {
      *value = (*argv)[size] == '=' ? *argv + size + 1 : "";
      return 1;
    }
  return 0;
}

int main(int argc, char **argv)
{
  static int adds;
  const char *value;
  plum_status status;
  plum_worker_figures figures;
  struct sigaction action;
  if (argc < 4 || plum_worker_new(argv[1], &worker) != PLUM_OK)
    return 2;
  plum_worker_set_id(worker, argv[2]);
  plum_worker_set_capacity(worker, 16);
  plum_worker_set_label(worker, "lang", "C \"99\"");
  plum_worker_set_node(worker, "here");
  plum_worker_set_log(worker, say, NULL);
  plum_worker_set_on_cancel(worker, on_cancel, NULL);
  plum_worker_set_drain_timeout_ms(worker, 20000);
  if (option(argv + 4, "poll", &value))
    plum_worker_set_long_poll(worker, 1);
  if (option(argv + 4, "dir", &value))
    plum_worker_set_directory(worker, value);
  if (option(argv + 4, "beat", &value))
    plum_worker_set_beat_ms(worker, atoi(value));
  if (option(argv + 4, "notes", &value))
    notes = open(value, O_WRONLY | O_CREAT | O_APPEND, 0600);
  if (option(argv + 4, "name", &value))
    plum_worker_add_task(worker, value, act, NULL);
  plum_worker_add_task(worker, "echo", echo, NULL);
  plum_worker_add_task(worker, "fail", fail, NULL);
  plum_worker_add_task(worker, "nap", nap, NULL);
  plum_worker_add_task(worker, "later", later, NULL);
  plum_worker_add_task(worker, "text", text, NULL);
  plum_worker_add_task(worker, "bytes", bytes, NULL);
  plum_worker_add_task(worker, "no-json", no_json, NULL);
  plum_worker_add_task(worker, "silent", silent, NULL);
  plum_worker_add_task(worker, "add", change_tasks, &adds);
  plum_worker_add_task(worker, "drop", change_tasks, NULL);
  memset(&action, 0, sizeof action);
  action.sa_handler = on_signal;
  sigaction(SIGTERM, &action, NULL);
  sigaction(SIGUSR1, &action, NULL);
  status = option(argv + 4, "step", &value) ? step_loop() : plum_worker_run(worker, atoi(argv[3]));
  plum_worker_look(worker, &figures);
  printf("ended %d: %s; results %llu, refused %llu, given up %llu, registrations %llu\n", status,
         plum_status_text(status), (unsigned long long)figures.results,
         (unsigned long long)figures.refused, (unsigned long long)figures.given_up,
         (unsigned long long)figures.registrations);
  plum_worker_free(worker);
  return (int)status;
}
