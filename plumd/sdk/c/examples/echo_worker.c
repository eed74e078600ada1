/* A worker that answers with what it was given.
 *
 *   cc -O2 -I. -o echo_worker echo_worker.c plum.c -lpthread
 *   ./echo_worker http://127.0.0.1:8080
 *
 * SIGTERM or Ctrl-C: it takes nothing new, finishes what runs, and ends.
 */
#include <plum.h>

#include <signal.h>
#include <stdio.h>

static plum_worker *worker;

static void on_signal(int number)
{
  (void)number;
  plum_worker_drain(worker);
}

static void echo(plum_attempt *attempt, void *context)
{
  size_t size_bytes;
  const char *payload = plum_attempt_payload(attempt, &size_bytes);
  (void)context;
  plum_attempt_log(attempt, "echoing", PLUM_Z);
  plum_attempt_finish(attempt, payload, size_bytes);
}

static void say(void *context, int level, const char *text)
{
  (void)context;
  fprintf(stderr, "%s%s\n", level == 0 ? "trouble: " : "", text);
}

int main(int argc, char **argv)
{
  plum_status status = plum_worker_new(argc > 1 ? argv[1] : NULL, &worker);
  if (status == PLUM_OK) {
    plum_worker_set_capacity(worker, 16);
    plum_worker_set_log(worker, say, NULL);
    plum_worker_add_task(worker, "echo", echo, NULL);
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    status = plum_worker_run(worker, 4);
    plum_worker_free(worker);
  }
  if (status != PLUM_OK)
    fprintf(stderr, "%s\n", plum_status_text(status));
  return status == PLUM_OK ? 0 : 1;
}
