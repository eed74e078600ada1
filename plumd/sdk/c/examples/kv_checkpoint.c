/* Work that goes on where it was: each step is noted in the key-value store by compare-and-set, so
 * that of two programs with the same name one finds out that it is not alone.
 *
 *   cc -O2 -I. -o kv_checkpoint kv_checkpoint.c plum.c -lpthread
 *   ./kv_checkpoint http://127.0.0.1:8080 job-1 10
 */
#include <plum.h>

#include <stdio.h>
#include <stdlib.h>

/* Where the work was left, and the version that says so; 0 = it was never begun. */
static plum_status load(plum_client *client, const char *key, long *step, int64_t *version)
{
  plum_kv_list *list;
  plum_status status = plum_kv_get(client, "checkpoints", key, &list);
  *step = 0;
  *version = 0;
  if (status == PLUM_E_NOT_FOUND)
    return PLUM_OK;
  if (status != PLUM_OK)
    return status;
  *step = atol(plum_kv_list_at(list, 0)->value);
  *version = plum_kv_list_at(list, 0)->version;
  plum_kv_list_free(list);
  return PLUM_OK;
}

int main(int argc, char **argv)
{
  const char *key = argc > 2 ? argv[2] : "job-1";
  long step, steps = argc > 3 ? atol(argv[3]) : 10;
  int64_t version;
  char text[32];
  plum_client *client;
  plum_status status = plum_client_new(argc > 1 ? argv[1] : NULL, &client);
  if (status == PLUM_OK) {
    status = load(client, key, &step, &version);
    if (status == PLUM_OK)
      printf("from step %ld\n", step);
    while (status == PLUM_OK && step < steps) {
      /* ... the work of one step ... */
      snprintf(text, sizeof text, "%ld", ++step);
      status = plum_kv_cas(client, "checkpoints", key, version, text, PLUM_Z, "int", 0, &version);
    }
    if (status == PLUM_E_PRECONDITION)
      fprintf(stderr, "another program works on %s\n", key);
    else if (status == PLUM_OK)
      printf("done at step %ld\n", step);
    plum_client_free(client);
  }
  if (status != PLUM_OK)
    fprintf(stderr, "%s\n", plum_status_text(status));
  return status == PLUM_OK ? 0 : 1;
}
