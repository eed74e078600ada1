/* plum_openssl.c: a plum_transport that puts OpenSSL on top of the plain one. */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#include "plum_openssl.h"

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What every stream of a transport shares. */
typedef struct tls_context {
  SSL_CTX *ssl;
  BIO_METHOD *method;
  plum_log log;
  void *log_context;
} tls_context;

typedef struct tls_stream {
  const plum_transport *plain;
  void *below;
  SSL *ssl;
  int wants, failed;
  struct tls_context *shared;
} tls_stream;

/* OpenSSL's bytes go by the plain transport, which never raises SIGPIPE. */
static int bio_write(BIO *bio, const char *data, int size)
{
  tls_stream *tls = BIO_get_data(bio);
  size_t count = 0;
  plum_status status = tls->plain->write(tls->below, data, (size_t)size, &count);
  BIO_clear_retry_flags(bio);
  if (status == PLUM_AGAIN)
    BIO_set_retry_write(bio);
  return status == PLUM_OK ? (int)count : -1;
}

static int bio_read(BIO *bio, char *data, int room)
{
  tls_stream *tls = BIO_get_data(bio);
  size_t count = 0;
  plum_status status = tls->plain->read(tls->below, data, (size_t)room, &count);
  BIO_clear_retry_flags(bio);
  if (status == PLUM_AGAIN)
    BIO_set_retry_read(bio);
  return status == PLUM_OK ? (int)count : status == PLUM_E_CLOSED ? 0 : -1;
}

static long bio_control(BIO *bio, int command, long number, void *pointer)
{
  (void)bio;
  (void)number;
  (void)pointer;
  return command == BIO_CTRL_FLUSH;
}

static void tls_close(void *stream)
{
  tls_stream *tls = stream;
  if (tls->ssl != NULL && !tls->failed)
    (void)SSL_shutdown(tls->ssl);
  SSL_free(tls->ssl);
  if (tls->below != NULL)
    tls->plain->close(tls->below);
  ERR_clear_error();
  free(tls);
}

static int name_the_peer(SSL *ssl, const char *host)
{
  unsigned char address[16];
  if (inet_pton(AF_INET, host, address) == 1 || inet_pton(AF_INET6, host, address) == 1)
    return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), host) == 1;
  SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
  return SSL_set1_host(ssl, host) == 1 && SSL_set_tlsext_host_name(ssl, host) == 1;
}

static plum_status tls_open(void *context, const char *host, const char *port, void **stream)
{
  tls_context *shared = context;
  tls_stream *tls = calloc(1, sizeof *tls);
  BIO *bio;
  plum_status status;
  if (tls == NULL)
    return PLUM_E_MEMORY;
  tls->plain = plum_posix_transport();
  tls->shared = shared;
  status = tls->plain->open(tls->plain->context, host, port, &tls->below);
  if (status == PLUM_OK) {
    tls->ssl = SSL_new(shared->ssl);
    bio = BIO_new(shared->method);
    status = tls->ssl == NULL || bio == NULL ? PLUM_E_MEMORY : PLUM_OK;
    if (bio != NULL) {
      BIO_set_data(bio, tls);
      BIO_set_init(bio, 1);
      if (tls->ssl != NULL)
        SSL_set_bio(tls->ssl, bio, bio);
      else
        (void)BIO_free(bio);
    }
  }
  if (status == PLUM_OK && !name_the_peer(tls->ssl, host))
    status = PLUM_E_TLS;
  if (status != PLUM_OK) {
    tls->failed = 1;
    tls_close(tls);
    return status;
  }
  *stream = tls;
  return PLUM_OK;
}

/* What a result of OpenSSL's means. */
static plum_status tls_status(tls_stream *tls, int result, plum_status otherwise)
{
  int error = result > 0 ? SSL_ERROR_NONE : SSL_get_error(tls->ssl, result);
  if (error == SSL_ERROR_NONE)
    return PLUM_OK;
  if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) {
    tls->wants = error == SSL_ERROR_WANT_READ ? PLUM_READ : PLUM_WRITE;
    return PLUM_AGAIN;
  }
  tls->failed = error != SSL_ERROR_ZERO_RETURN;
  ERR_clear_error();
  return otherwise;
}

/* Why a handshake failed: what is wrong with the peer's certificate, or what OpenSSL says. */
static void tell_why(tls_stream *tls)
{
  char text[512], why[256] = "the connection ended";
  long verdict = SSL_get_verify_result(tls->ssl);
  unsigned long error = ERR_peek_error();
  if (tls->shared->log == NULL)
    return;
  if (verdict != X509_V_OK)
    (void)snprintf(why, sizeof why, "%s", X509_verify_cert_error_string(verdict));
  else if (error != 0)
    ERR_error_string_n(error, why, sizeof why);
  (void)snprintf(text, sizeof text, "no TLS handshake: %s", why);
  tls->shared->log(tls->shared->log_context, 0, text);
}

static plum_status tls_connect(void *stream)
{
  tls_stream *tls = stream;
  int result, error;
  plum_status status = tls->plain->connect(tls->below);
  if (status != PLUM_OK) {
    tls->wants = PLUM_WRITE;
    return status;
  }
  tls->wants = 0;
  ERR_clear_error();
  result = SSL_connect(tls->ssl);
  error = result > 0 ? SSL_ERROR_NONE : SSL_get_error(tls->ssl, result);
  if (error != SSL_ERROR_NONE && error != SSL_ERROR_WANT_READ && error != SSL_ERROR_WANT_WRITE)
    tell_why(tls);
  status = tls_status(tls, result, PLUM_E_TLS);
  if (status == PLUM_OK)
    tls->wants = 0;
  return status;
}

static plum_status tls_read(void *stream, char *data, size_t room_bytes, size_t *count)
{
  tls_stream *tls = stream;
  tls->wants = 0;
  ERR_clear_error();
  *count = 0;
  return tls_status(tls, SSL_read_ex(tls->ssl, data, room_bytes, count), PLUM_E_CLOSED);
}

static plum_status tls_write(void *stream, const char *data, size_t size_bytes, size_t *count)
{
  tls_stream *tls = stream;
  tls->wants = 0;
  ERR_clear_error();
  *count = 0;
  return tls_status(tls, SSL_write_ex(tls->ssl, data, size_bytes, count), PLUM_E_CLOSED);
}

static int tls_fd(void *stream)
{
  tls_stream *tls = stream;
  return tls->plain->fd(tls->below);
}

static int tls_wants(void *stream) { return ((tls_stream *)stream)->wants; }

plum_status plum_openssl_new(const char *ca_file, plum_transport **out)
{
  plum_transport *transport = calloc(1, sizeof *transport);
  tls_context *shared = calloc(1, sizeof *shared);
  int well = transport != NULL && shared != NULL;
  *out = NULL;
  if (well) {
    transport->context = shared;
    shared->ssl = SSL_CTX_new(TLS_client_method());
    shared->method = BIO_meth_new(BIO_TYPE_SOURCE_SINK | BIO_get_new_index(), "plum");
    well = shared->ssl != NULL && shared->method != NULL
           && BIO_meth_set_write(shared->method, bio_write) == 1
           && BIO_meth_set_read(shared->method, bio_read) == 1
           && BIO_meth_set_ctrl(shared->method, bio_control) == 1;
  }
  if (well) {
    SSL_CTX_set_verify(shared->ssl, SSL_VERIFY_PEER, NULL);
    (void)SSL_CTX_set_min_proto_version(shared->ssl, TLS1_2_VERSION);
    (void)SSL_CTX_set_mode(shared->ssl, SSL_MODE_ENABLE_PARTIAL_WRITE
                                            | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    well = ca_file == NULL ? SSL_CTX_set_default_verify_paths(shared->ssl) == 1
           : SSL_CTX_load_verify_locations(shared->ssl, ca_file, NULL) == 1;
    ERR_clear_error();
  }
  if (!well) {
    if (transport == NULL)
      free(shared);
    else
      plum_openssl_free(transport);
    return ca_file == NULL ? PLUM_E_TLS : PLUM_E_INVALID;
  }
  transport->open = tls_open;
  transport->connect = tls_connect;
  transport->read = tls_read;
  transport->write = tls_write;
  transport->fd = tls_fd;
  transport->wants = tls_wants;
  transport->close = tls_close;
  *out = transport;
  return PLUM_OK;
}

plum_status plum_openssl_set_identity(plum_transport *transport, const char *certificate_file,
                                      const char *key_file)
{
  SSL_CTX *ssl = ((tls_context *)transport->context)->ssl;
  int well = certificate_file != NULL && key_file != NULL
             && SSL_CTX_use_certificate_chain_file(ssl, certificate_file) == 1
             && SSL_CTX_use_PrivateKey_file(ssl, key_file, SSL_FILETYPE_PEM) == 1
             && SSL_CTX_check_private_key(ssl) == 1;
  ERR_clear_error();
  return well ? PLUM_OK : PLUM_E_INVALID;
}

void plum_openssl_set_log(plum_transport *transport, plum_log log, void *context)
{
  tls_context *shared = transport->context;
  shared->log = log;
  shared->log_context = context;
}

void plum_openssl_free(plum_transport *transport)
{
  tls_context *shared = transport == NULL ? NULL : transport->context;
  if (shared != NULL) {
    SSL_CTX_free(shared->ssl);
    BIO_meth_free(shared->method);
    free(shared);
  }
  free(transport);
}
