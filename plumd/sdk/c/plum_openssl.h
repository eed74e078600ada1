/* plum_openssl.h: TLS for plum.h by OpenSSL 1.1.1 or newer; compile plum_openssl.c and link -lssl.
 *
 *   plum_transport *tls;
 *   plum_openssl_new(NULL, &tls);
 *   plum_worker_set_transport(worker, tls);     with an https URL
 */
#ifndef PLUM_OPENSSL_H
#define PLUM_OPENSSL_H

#include <plum.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ca_file: PEM file of the authorities to trust; NULL = those of the system. The peer's certificate
 * and name are always checked. Free it when nothing uses it any more. */
PLUM_API plum_status plum_openssl_new(const char *ca_file, plum_transport **transport);
/* The same, and we show a certificate of our own. */
PLUM_API plum_status plum_openssl_set_identity(plum_transport *transport,
                                               const char *certificate_file,
                                               const char *key_file);
/* Says in words why a handshake failed, which plum_status cannot: by the thread that connects.
 * Before the transport is used; NULL = say nothing. */
PLUM_API void plum_openssl_set_log(plum_transport *transport, plum_log log, void *context);
PLUM_API void plum_openssl_free(plum_transport *transport);

#ifdef __cplusplus
}
#endif

#endif
