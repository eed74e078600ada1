/* Finds a service and asks the daemon to do something: registers an endpoint, resolves it as
 * another program would, submits a task, and waits for its result.
 *
 *   cc -O2 -I. -o service_client service_client.c plum.c -lpthread
 *   ./service_client http://127.0.0.1:8080 echo '{"hello": "world"}'
 */
#include <plum.h>

#include <stdio.h>

static plum_status resolve(plum_client *client)
{
  plum_endpoint own = {"images", "images-1", NULL, "127.0.0.1", 9000, "http", "1.0"}, found;
  plum_resolver *resolver = NULL;
  plum_status status = plum_service_register(client, "images-1", &own, 1);
  if (status == PLUM_OK)
    status = plum_service_heartbeat(client, "images-1", &own, 1, 1); /* and again each 5 s */
  if (status == PLUM_OK)
    status = plum_resolver_new(client, 5000, &resolver);
  if (status == PLUM_OK)
    status = plum_resolver_pick(resolver, "images", PLUM_ROUND_ROBIN, &found);
  if (status == PLUM_OK)
    printf("images is at %s://%s:%d\n", found.protocol, found.ip, found.port);
  plum_resolver_free(resolver);
  if (status == PLUM_OK)
    status = plum_service_deregister(client, "images-1");
  return status;
}

static plum_status submit(plum_client *client, const char *name, const char *payload)
{
  plum_order *order = NULL;
  plum_task *task = NULL;
  plum_status status = plum_order_new(name, &order);
  if (status == PLUM_OK)
    status = plum_order_set_payload(order, payload, PLUM_Z);
  if (status == PLUM_OK)
    status = plum_order_set_priority(order, 7);
  if (status == PLUM_OK)
    status = plum_task_submit(client, order, 10000, &task);
  if (status == PLUM_OK && plum_task_get_state(task) == PLUM_TASK_SUCCEEDED)
    printf("result: %s\n", plum_task_result(task, NULL));
  else if (status == PLUM_OK)
    printf("no result: %s %s\n", plum_task_error_code(task), plum_task_error_message(task));
  plum_task_free(task);
  plum_order_free(order);
  return status;
}

int main(int argc, char **argv)
{
  plum_client *client;
  plum_status status = plum_client_new(argc > 1 ? argv[1] : NULL, &client);
  if (status != PLUM_OK) {
    fprintf(stderr, "%s\n", plum_status_text(status));
    return 1;
  }
  status = resolve(client);
  if (status == PLUM_OK)
    status = submit(client, argc > 2 ? argv[2] : "builtin.echo",
                    argc > 3 ? argv[3] : "{\"hello\": \"world\"}");
  if (status != PLUM_OK)
    fprintf(stderr, "%s: %s\n", plum_status_text(status), plum_client_problem(client).detail);
  plum_client_free(client);
  return status == PLUM_OK ? 0 : 1;
}
