/* A radar: tells its azimuth and range, and takes operations, without a port of its own.
 *
 *   cc -O2 -I. -o radar_device radar_device.c plum.c -lpthread
 *   ./radar_device http://127.0.0.1:8080 radar-1 [HOST:PORT to be called back instead]
 */
#include <plum.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static plum_device *device;

static void on_signal(int number)
{
  (void)number;
  plum_device_stop(device);
}

/* The daemon has checked the value against the description: 1 .. 300. */
static int operate(void *context, const char *name, const char *value, plum_buffer *answer)
{
  (void)context;
  if (strcmp(name, "range") == 0) {
    plum_device_set_state(device, "range", value);
    return 0;
  }
  if (strcmp(name, "selfTest") == 0) {
    plum_buffer_print(answer, "the antenna is stuck");
    return 503;
  }
  return 404;
}

static void say(void *context, int level, const char *text)
{
  (void)context;
  fprintf(stderr, "%s%s\n", level == 0 ? "trouble: " : "", text);
}

int main(int argc, char **argv)
{
  const char *url = argc > 1 ? argv[1] : NULL, *id = argc > 2 ? argv[2] : "radar-1";
  plum_status status = plum_device_new(url, id, "radar", &device);
  if (status == PLUM_OK) {
    plum_device_set_log(device, say, NULL);
    plum_device_add_state(device, "azimuth", "double", "deg");
    plum_device_add_state(device, "range", "int", "km");
    plum_device_add_operation(device, "range", "int", "km", "1", "300");
    plum_device_add_operation(device, "selfTest", "string", NULL, NULL, NULL);
    plum_device_on_operation(device, operate, NULL);
    plum_device_set_state(device, "azimuth", "12.5");
    plum_device_set_state(device, "range", "120");
    if (argc > 3) {
      char *colon = strrchr(argv[3], ':');
      if (colon != NULL)
        *colon = '\0';
      status = plum_device_listen(device, argv[3], colon == NULL ? 0 : atoi(colon + 1));
    }
    signal(SIGTERM, on_signal);
    signal(SIGINT, on_signal);
    if (status == PLUM_OK)
      status = plum_device_run(device);
    plum_device_free(device);
  }
  if (status != PLUM_OK)
    fprintf(stderr, "%s\n", plum_status_text(status));
  return status == PLUM_OK ? 0 : 1;
}
