/* The C worker of a measurement: c_worker URL CAPACITY NAME MODE [ID ...]
 *
 * MODE: noop answers null, stamp answers the time at which it was called, block never answers. With
 * ids it is so many workers in one process, by one poll
 * loop of the program's own. Prints a line when all are registered.
 * SIGTERM drains a single one; then its processor time is printed, in ms, and how many tasks it did.
 */
#define _POSIX_C_SOURCE 200809L
#include <plum.h>

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static plum_worker *only;

static void on_signal(int number)
{
  (void)number;
  plum_worker_drain(only);
}

static void noop(plum_attempt *attempt, void *context)
{
  (void)context;
  plum_attempt_finish(attempt, NULL, 0);
}

static void stamp(plum_attempt *attempt, void *context)
{
  struct timespec now;
  char text[32];
  (void)context;
  clock_gettime(CLOCK_MONOTONIC, &now);
  snprintf(text, sizeof text, "%lld", (long long)now.tv_sec * 1000000000 + now.tv_nsec);
  plum_attempt_finish(attempt, text, PLUM_Z);
}

static void block(plum_attempt *attempt, void *context)
{
  (void)context;
  plum_attempt_defer(attempt);
}

static plum_worker *make(char **argv, const char *id)
{
  plum_handler handler = strcmp(argv[4], "block") == 0   ? block
                         : strcmp(argv[4], "stamp") == 0 ? stamp : noop;
  plum_worker *worker;
  if (plum_worker_new(argv[1], &worker) != PLUM_OK
      || plum_worker_set_capacity(worker, atoi(argv[2])) != PLUM_OK
      || plum_worker_add_task(worker, argv[3], handler, NULL) != PLUM_OK
      || (id != NULL && plum_worker_set_id(worker, id) != PLUM_OK)
      || (getenv("PLUM_BENCH_LONG_POLL") != NULL
          && plum_worker_set_long_poll(worker, 1) != PLUM_OK))
    exit(2);
  return worker;
}

static void on_news(void *context, int level, const char *text)
{
  (void)context;
  if (level == 1 && strncmp(text, "registered", 10) == 0) {
    printf("registered\n");
    fflush(stdout);
  }
}

static int is_registered(plum_worker *worker)
{
  plum_worker_figures figures;
  plum_worker_look(worker, &figures);
  return figures.connected;
}

/* Steps the workers; each has its two descriptors in the list. */
static plum_status serve(plum_worker **workers, size_t count)
{
  struct pollfd *ready = calloc(2 * count, sizeof *ready);
  size_t i, known = 0;
  int said = 0, wait_ms;
  plum_status status = PLUM_AGAIN;
  while (status == PLUM_AGAIN && ready != NULL) {
    for (known = 0, wait_ms = 60000, i = 0; i < count && status == PLUM_AGAIN; i++) {
      int fds[2], events[2], each, n, deadline_ms;
      if (ready[2 * i].revents != 0 || ready[2 * i + 1].revents != 0
          || plum_worker_next_deadline_ms(workers[i]) == 0)
        status = plum_worker_step(workers[i]);
      n = plum_worker_fds(workers[i], fds, events);
      for (each = 0; each < 2; each++) {
        ready[2 * i + (size_t)each].fd = each < n ? fds[each] : -1;
        ready[2 * i + (size_t)each].events = (short)((events[each] & PLUM_READ ? POLLIN : 0)
                                                     | (events[each] & PLUM_WRITE ? POLLOUT : 0));
        ready[2 * i + (size_t)each].revents = 0;
      }
      deadline_ms = plum_worker_next_deadline_ms(workers[i]);
      wait_ms = deadline_ms < wait_ms ? deadline_ms : wait_ms;
      known += !said && is_registered(workers[i]);
    }
    if (!said && known == count) {
      said = 1;
      printf("registered\n");
      fflush(stdout);
    }
    if (status == PLUM_AGAIN)
      (void)poll(ready, (nfds_t)(2 * count), wait_ms);
  }
  free(ready);
  return status;
}

int main(int argc, char **argv)
{
  size_t count = argc > 6 ? (size_t)(argc - 5) : 1, i;
  plum_worker **workers = calloc(count, sizeof *workers);
  plum_worker_figures figures;
  plum_status status;
  if (argc < 5 || workers == NULL)
    return 2;
  for (i = 0; i < count; i++)
    workers[i] = make(argv, argc > 5 ? argv[5 + i] : NULL);
  only = workers[0];
  signal(SIGTERM, on_signal);
  if (count == 1)
    plum_worker_set_log(only, on_news, NULL);
  status = count > 1 ? serve(workers, count) : plum_worker_run(only, 0);
  plum_worker_look(only, &figures);
  printf("%.3f %llu\n", (double)clock() * 1000 / CLOCKS_PER_SEC,
         (unsigned long long)figures.results);
  for (i = 0; i < count; i++)
    plum_worker_free(workers[i]);
  free(workers);
  return status == PLUM_OK ? 0 : 1;
}
