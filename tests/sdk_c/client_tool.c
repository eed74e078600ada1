/* The client's functions for the tests: client_tool URL COMMAND ... prints what came of it. */
#include <plum.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static plum_client *client;

static int ended(plum_status status)
{
  plum_problem problem = plum_client_problem(client);
  printf("status %d %d %s %s\n", (int)status, problem.http_status, problem.code, problem.field);
  if (plum_client_retry_after_ms(client) >= 0)
    printf("again in %lld ms\n", (long long)plum_client_retry_after_ms(client));
  return (int)status;
}

static void show_entry(const plum_kv_entry *entry)
{
  printf("%s=%s %s v%lld%s%s\n", entry->key, entry->value, entry->type, (long long)entry->version,
         entry->expires_ms > 0 ? " expires" : "", entry->deleted ? " deleted" : "");
  fflush(stdout);
}

static int show_list(plum_status status, plum_kv_list *list)
{
  size_t i;
  for (i = 0; status == PLUM_OK && i < plum_kv_list_size(list); i++)
    show_entry(plum_kv_list_at(list, i));
  plum_kv_list_free(status == PLUM_OK ? list : NULL);
  return ended(status);
}

static int show_task(plum_status status, plum_task *task)
{
  if (task != NULL)
    printf("%s %d %s %s %s\n", plum_task_id(task), (int)plum_task_get_state(task),
           plum_task_result(task, NULL), plum_task_error_code(task),
           plum_task_error_message(task));
  plum_task_free(task);
  return ended(status);
}

static int submit(char **words)
{
  plum_order *order;
  plum_task *task = NULL;
  plum_status status = plum_order_new(words[0], &order);
  if (status != PLUM_OK)
    return ended(status);
  if (plum_order_set_payload(order, words[1], PLUM_Z) != PLUM_OK
      || plum_order_set_priority(order, 7) != PLUM_OK
      || plum_order_set_timeout_ms(order, 2500) != PLUM_OK
      || plum_order_set_queue_timeout_ms(order, 60000) != PLUM_OK
      || plum_order_set_retries(order, 2) != PLUM_OK
      || plum_order_set_label(order, "a", "1") != PLUM_OK
      || plum_order_set_label(order, "b", "\"2\"") != PLUM_OK
      || plum_order_set_delay_ms(order, 5) != PLUM_OK
      || plum_order_set_json(order, "onLost", "\"fail\"") != PLUM_OK)
    abort();
  if (plum_order_set_payload(order, "{", 1) != PLUM_E_INVALID
      || plum_order_set_priority(order, 10) != PLUM_E_INVALID)
    abort();
  status = plum_task_submit(client, order, atoi(words[2]), &task);
  plum_order_free(order);
  return show_task(status, task);
}

static int bulk(char **words)
{
  plum_bulk *all;
  plum_order *order;
  plum_status status;
  size_t i;
  if (plum_bulk_new(&all) != PLUM_OK)
    abort();
  for (; *words != NULL; words++) {
    if (plum_order_new(*words, &order) != PLUM_OK || plum_bulk_add(all, order) != PLUM_OK)
      abort();
    plum_order_free(order);
  }
  status = plum_bulk_submit(client, all);
  for (i = 0; i <= plum_bulk_size(all); i++) {
    plum_problem wrong = plum_bulk_problem(all, i);
    if (strcmp(wrong.code, plum_bulk_error_code(all, i)) != 0)
      abort();
    printf("%s|%s", plum_bulk_task_id(all, i), wrong.code);
    if (wrong.http_status != 0)
      printf(" %d %s: %s", wrong.http_status, strrchr(wrong.field, '.') + 1, wrong.detail);
    printf("\n");
  }
  plum_bulk_free(all);
  return ended(status);
}

static int kv(const char *command, char **words)
{
  plum_kv_list *list = NULL;
  int64_t version = 0;
  plum_status status;
  if (strcmp(command, "kv-get") == 0) {
    status = plum_kv_get(client, words[0], words[1], &list);
    return show_list(status, list);
  }
  if (strcmp(command, "kv-list") == 0) {
    status = plum_kv_list_get(client, words[0], words[1], &list);
    return show_list(status, list);
  }
  if (strcmp(command, "kv-put") == 0)
    status = plum_kv_put(client, words[0], words[1], words[2], PLUM_Z, words[3], atol(words[4]),
                         &version);
  else if (strcmp(command, "kv-bytes") == 0)
    status = plum_kv_put_bytes(client, words[0], words[1], "\0\377", 2, &version);
  else if (strcmp(command, "kv-cas") == 0)
    status = plum_kv_cas(client, words[0], words[1], atol(words[2]), words[3], PLUM_Z, NULL, 0,
                         &version);
  else
    status = plum_kv_delete(client, words[0], words[1], atol(words[2]));
  printf("version %lld\n", (long long)version);
  return ended(status);
}

/* put KEY VALUE VERSION | delete KEY VERSION, again and again. */
static int kv_batch(char **words)
{
  plum_kv_batch *batch;
  const char *space = *words++;
  plum_status status;
  if (plum_kv_batch_new(&batch) != PLUM_OK)
    abort();
  while (*words != NULL) {
    int puts = strcmp(words[0], "put") == 0;
    status = puts ? plum_kv_batch_put(batch, words[1], words[2], PLUM_Z, NULL, 0, atol(words[3]))
                  : plum_kv_batch_delete(batch, words[1], atol(words[2]));
    if (status != PLUM_OK)
      abort();
    words += puts ? 4 : 3;
  }
  status = plum_kv_batch_commit(client, space, batch);
  plum_kv_batch_free(batch);
  return ended(status);
}

/* Prints changes until the key `stop` changes. */
static int kv_watch(char **words)
{
  plum_kv_watch *watch;
  const plum_kv_entry *entry;
  int current = 0, over = 0;
  plum_status status = plum_kv_watch_new(client, words[0], words[1], &watch);
  if (status != PLUM_OK)
    return ended(status);
  while (!over) {
    status = plum_kv_watch_next(watch, 50, &entry);
    if (plum_kv_watch_is_current(watch) && !current) {
      printf("current\n");
      fflush(stdout);
    }
    current = plum_kv_watch_is_current(watch);
    if (status == PLUM_E_TIMEOUT)
      continue;
    if (status != PLUM_OK)
      break;
    show_entry(entry);
    over = strstr(entry->key, "stop") != NULL;
  }
  plum_kv_watch_free(watch);
  return ended(status);
}

/* Registers two instances of a service, and picks as often as each strategy is named. */
static int services(char **words)
{
  static const plum_endpoint ends[2] = {{"svc", "i1", "n", "127.0.0.1", 9001, NULL, "1"},
                                        {"svc", "i2", "n", "127.0.0.1", 9002, NULL, "1"}};
  plum_resolver *resolver;
  plum_endpoint found;
  plum_status status = plum_service_register(client, "i1", &ends[0], 1);
  if (status == PLUM_OK)
    status = plum_service_register(client, "i2", &ends[1], 1);
  if (status == PLUM_OK)
    status = plum_service_heartbeat(client, "i1", &ends[0], 1, 1);
  if (status == PLUM_OK)
    status = plum_service_heartbeat(client, "i2", &ends[1], 1, 1);
  if (status != PLUM_OK || plum_resolver_new(client, 60000, &resolver) != PLUM_OK)
    return ended(status);
  for (; *words != NULL && status == PLUM_OK; words++) {
    if (strcmp(*words, "blame") == 0) {
      plum_resolver_blame(resolver, &found);
      continue;
    }
    if (strcmp(*words, "leave") == 0) {
      status = plum_service_deregister(client, found.instance_id);
      continue;
    }
    status = plum_resolver_pick(resolver, "svc", (plum_strategy)atoi(*words), &found);
    if (status == PLUM_OK)
      printf("%d ", found.port);
  }
  printf("\n");
  if (status == PLUM_OK && plum_resolver_pick(resolver, "nobody", PLUM_RANDOM, &found)
                               != PLUM_E_NOT_FOUND)
    abort();
  plum_resolver_free(resolver);
  return ended(status);
}

/* The same call again and again, one a line of stdin: what a kept connection goes through. */
static int again(char **words)
{
  char line[16];
  plum_reply *reply;
  plum_status status = PLUM_OK;
  while (fgets(line, sizeof line, stdin) != NULL) {
    status = plum_client_call(client, "GET", words[0], NULL, NULL, 0, &reply);
    printf("%d %d\n", (int)status, status == PLUM_OK ? plum_reply_status(reply) : 0);
    fflush(stdout);
    if (status == PLUM_OK)
      plum_reply_free(reply);
  }
  return ended(status);
}

static int one_task(const char *command, char **words)
{
  plum_task *task = NULL;
  plum_status status;
  if (strcmp(command, "get") == 0)
    status = plum_task_get(client, words[0], &task);
  else if (strcmp(command, "wait") == 0)
    status = plum_task_wait(client, words[0], atoi(words[1]), &task);
  else if (strcmp(command, "cancel") == 0)
    status = plum_task_cancel(client, words[0], atoi(words[1]), &task);
  else
    return 64;
  return show_task(status, task);
}

static int dispatch(const char *command, char **words)
{
  if (strcmp(command, "submit") == 0)
    return submit(words);
  if (strcmp(command, "bulk") == 0)
    return bulk(words);
  if (strcmp(command, "kv-batch") == 0)
    return kv_batch(words);
  if (strcmp(command, "kv-watch") == 0)
    return kv_watch(words);
  if (strncmp(command, "kv-", 3) == 0)
    return kv(command, words);
  if (strcmp(command, "services") == 0)
    return services(words);
  return strcmp(command, "again") == 0 ? again(words) : one_task(command, words);
}

int main(int argc, char **argv)
{
  int code;
  if (argc < 3 || plum_client_new(argv[1], &client) != PLUM_OK)
    return 64;
  code = dispatch(argv[2], argv + 3);
  plum_client_free(client);
  return code;
}
