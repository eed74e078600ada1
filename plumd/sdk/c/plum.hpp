// plum.hpp: plum.h for C++11 and newer, header-only. Link plum.c (or libplum) as well.
//
// Everything that a class owns it frees. What can fail answers a Status or a Result<T>; ask it, or
// say .check() or .value(), which throw plum::Error. With -fno-exceptions (or PLUM_NO_EXCEPTIONS)
// those two end the program instead, so ask first; the rest is the same.
#ifndef PLUM_HPP
#define PLUM_HPP

#include <plum.h>

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#if !defined(PLUM_NO_EXCEPTIONS) && !defined(__cpp_exceptions) && !defined(__EXCEPTIONS)
#define PLUM_NO_EXCEPTIONS
#endif
#ifndef PLUM_NO_EXCEPTIONS
#include <stdexcept>
#endif
#if defined(__GNUC__)
#define PLUM_MUST_USE __attribute__((warn_unused_result))
#else
#define PLUM_MUST_USE
#endif

namespace plum {

// ---------------------------------------------------------------- status

class Status {
public:
  Status(plum_status code = PLUM_OK) noexcept : code_(code) {}
  plum_status code() const noexcept { return code_; }
  bool ok() const noexcept { return code_ == PLUM_OK; }
  explicit operator bool() const noexcept { return ok(); }
  const char *text() const noexcept { return plum_status_text(code_); }
  void check() const;  // throws Error when it is not fine

private:
  plum_status code_;
};

#ifndef PLUM_NO_EXCEPTIONS
class Error : public std::runtime_error {
public:
  explicit Error(Status status) : std::runtime_error(status.text()), status_(status) {}
  Status status() const noexcept { return status_; }

private:
  Status status_;
};

// What a handler throws to fail with advice; any other exception is `handler_error`.
class TaskFailed : public std::runtime_error {
public:
  explicit TaskFailed(const std::string &message, std::string code = "task_failed",
                      bool retry = true, std::int64_t retry_after_ms = -1)
      : std::runtime_error(message), code_(std::move(code)), retry_(retry),
        retry_after_ms_(retry_after_ms) {}
  const std::string &code() const noexcept { return code_; }
  bool retry() const noexcept { return retry_; }
  std::int64_t retry_after_ms() const noexcept { return retry_after_ms_; }

private:
  std::string code_;
  bool retry_;
  std::int64_t retry_after_ms_;
};
#endif

inline void Status::check() const {
  if (ok())
    return;
#ifndef PLUM_NO_EXCEPTIONS
  throw Error(*this);
#else
  std::fprintf(stderr, "plum: %s\n", text());
  std::abort();
#endif
}

template <class T> class Result {
public:
  Result(Status status) : status_(status), value_() {}
  Result(T value) : status_(PLUM_OK), value_(std::move(value)) {}
  bool ok() const noexcept { return status_.ok(); }
  explicit operator bool() const noexcept { return ok(); }
  Status status() const noexcept { return status_; }
  T &value() & {
    status_.check();
    return value_;
  }
  T value() && {
    status_.check();
    return std::move(value_);
  }
  T *operator->() { return &value(); }

private:
  Status status_;
  T value_;
};

namespace detail {
template <class T> struct Free;
#define PLUM_FREE(type)                                                                            \
  template <> struct Free<plum_##type> {                                                           \
    void operator()(plum_##type *one) const noexcept { plum_##type##_free(one); }                  \
  };
PLUM_FREE(worker)
PLUM_FREE(client)
PLUM_FREE(reply)
PLUM_FREE(order)
PLUM_FREE(task)
PLUM_FREE(bulk)
PLUM_FREE(kv_list)
PLUM_FREE(kv_batch)
PLUM_FREE(kv_watch)
PLUM_FREE(resolver)
PLUM_FREE(device)
#undef PLUM_FREE
template <class T> using Owned = std::unique_ptr<T, Free<T>>;
}  // namespace detail

// ---------------------------------------------------------------- JSON

// A view of a value in a text that somebody else keeps.
class Json {
public:
  Json() noexcept : value_{nullptr, 0, PLUM_JSON_NONE} {}
  explicit Json(plum_json value) noexcept : value_(value) {}
  static Result<Json> parse(const std::string &text) {
    plum_json value;
    const Status status = plum_json_parse(text.data(), text.size(), &value);
    return status.ok() ? Result<Json>(Json(value)) : Result<Json>(status);
  }
  plum_json_type type() const noexcept { return value_.type; }
  explicit operator bool() const noexcept { return type() != PLUM_JSON_NONE; }
  Json operator[](const char *name) const { return Json(plum_json_member(value_, name)); }
  // What a string says; of any other value, its JSON text.
  std::string str() const {
    plum_buffer out = {};
    std::string text;
    if (value_.text != nullptr && plum_json_text(value_, &out) == PLUM_OK && out.data != nullptr)
      text.assign(out.data, out.size_bytes);
    plum_buffer_free(&out);
    return text;
  }
  std::string raw() const {
    return value_.text == nullptr ? std::string() : std::string(value_.text, value_.size_bytes);
  }
  std::int64_t integer(std::int64_t otherwise = 0) const {
    return plum_json_int(value_, otherwise);
  }
  double number(double otherwise = 0) const { return plum_json_double(value_, otherwise); }
  bool boolean(bool otherwise = false) const { return plum_json_bool(value_, otherwise) != 0; }
  // Calls f(key, value) for each member, f("", value) for each item.
  template <class F> void each(F f) const {
    plum_json_cursor cursor = plum_json_walk(value_);
    plum_json key, value;
    while (plum_json_next(&cursor, &key, &value))
      f(Json(key).str(), Json(value));
  }

private:
  plum_json value_;
};

// A text as a JSON string.
inline std::string quote(const std::string &text) {
  plum_buffer out = {};
  plum_buffer_add_json(&out, text.data(), text.size());
  std::string quoted = out.data == nullptr ? std::string("\"\"")
                                           : std::string(out.data, out.size_bytes);
  plum_buffer_free(&out);
  return quoted;
}

// ---------------------------------------------------------------- workers

// An attempt in its handler. Also what a deferred one is ended by, from any thread.
class Attempt {
public:
  explicit Attempt(plum_attempt *attempt) noexcept : attempt_(attempt) {}
  std::string id() const { return plum_attempt_id(attempt_); }
  std::string name() const { return plum_attempt_name(attempt_); }
  std::string payload() const {
    std::size_t size = 0;
    const char *text = plum_attempt_payload(attempt_, &size);
    return std::string(text, size);
  }
  // A view that is good as long as the attempt is.
  Json json() const {
    plum_json value;
    std::size_t size = 0;
    const char *text = plum_attempt_payload(attempt_, &size);
    return plum_json_parse(text, size, &value) == PLUM_OK ? Json(value) : Json();
  }
  int number() const { return plum_attempt_number(attempt_); }
  std::int64_t timeout_ms() const { return plum_attempt_timeout_ms(attempt_); }
  bool canceled() const { return plum_attempt_canceled(attempt_) != 0; }
  std::string cancel_reason() const { return plum_attempt_cancel_reason(attempt_); }
  void progress(double ratio, const std::string &text = std::string()) {
    plum_attempt_progress(attempt_, ratio, text.c_str());
  }
  void log(const std::string &text) { plum_attempt_log(attempt_, text.data(), text.size()); }
  // It goes on when the handler has returned; a copy of this object ends it then, once.
  Attempt defer() {
    plum_attempt_defer(attempt_);
    deferred_ = true;
    return *this;
  }
  Status finish(const std::string &json = "null") {
    return plum_attempt_finish(attempt_, json.data(), json.size());
  }
  // It ended because it was told to.
  Status stopped() { return plum_attempt_stopped(attempt_); }
  Status finish_text(const std::string &text) {
    return plum_attempt_finish_text(attempt_, text.data(), text.size());
  }
  Status finish_bytes(const std::string &data) {
    return plum_attempt_finish_bytes(attempt_, data.data(), data.size());
  }
  Status fail(const std::string &message, const std::string &code = "task_failed",
              bool retry = true, std::int64_t retry_after_ms = -1) {
    return plum_attempt_fail(attempt_, code.c_str(), message.c_str(), retry, retry_after_ms,
                             nullptr);
  }
  bool deferred() const noexcept { return deferred_; }
  plum_attempt *get() const noexcept { return attempt_; }

private:
  plum_attempt *attempt_;
  bool deferred_ = false;
};

// A worker; see plum_worker_new. Handlers return the result as JSON text, or void: then they may
// finish, fail or defer, and have else succeeded with null.
class Worker {
public:
  using Handler = std::function<void(Attempt &)>;
  using Log = std::function<void(int level, const std::string &text)>;

  explicit Worker(const std::string &url = std::string()) : parts_(new Parts) {
    plum_worker *made = nullptr;
    status_ = plum_worker_new(url.empty() ? nullptr : url.c_str(), &made);
    worker_.reset(made);
#ifndef PLUM_NO_EXCEPTIONS
    status_.check();
#endif
  }
  Status status() const noexcept { return status_; }

  Worker &id(const std::string &v) { return set(plum_worker_set_id, v.c_str()); }
  Worker &token(const std::string &v) { return set(plum_worker_set_token, v.c_str()); }
  Worker &capacity(int v) { return set(plum_worker_set_capacity, v); }
  Worker &beat_ms(int v) { return set(plum_worker_set_beat_ms, v); }
  Worker &drain_timeout_ms(int v) { return set(plum_worker_set_drain_timeout_ms, v); }
  Worker &node(const std::string &v) { return set(plum_worker_set_node, v.c_str()); }
  Worker &label(const std::string &name, const std::string &value) {
    return set(plum_worker_set_label, name.c_str(), value.c_str());
  }
  Worker &directory(const std::string &v) { return set(plum_worker_set_directory, v.c_str()); }
  Worker &long_poll(bool on = true) { return set(plum_worker_set_long_poll, on); }
  Worker &transport(const plum_transport *v) { return set(plum_worker_set_transport, v); }
  Worker &log(Log log) {
    parts_->log = std::move(log);
    return set(plum_worker_set_log, &Worker::on_log, parts_.get());
  }
  // Called by the line's thread when an attempt shall end.
  Worker &on_cancel(Handler handler) {
    parts_->on_cancel = std::move(handler);
    return set(plum_worker_set_on_cancel, &Worker::on_stop, &parts_->on_cancel);
  }

  template <class F> Worker &task(const std::string &name, F handler) {
    using Returned = decltype(handler(std::declval<Attempt &>()));
    return add(name, wrap(std::move(handler), std::is_void<Returned>()));
  }
  Worker &drop_task(const std::string &name) { return set(plum_worker_drop_task, name.c_str()); }

  Status run(int n_threads = 0) PLUM_MUST_USE {
    return status_.ok() ? Status(plum_worker_run(get(), n_threads)) : status_;
  }
  Status step() PLUM_MUST_USE { return status_.ok() ? Status(plum_worker_step(get())) : status_; }
  int fd() { return plum_worker_fd(get()); }
  int next_deadline_ms() { return plum_worker_next_deadline_ms(get()); }
  void drain() noexcept { plum_worker_drain(get()); }
  void stop() noexcept { plum_worker_stop(get()); }
  std::string id() const { return plum_worker_id(get()); }
  plum_worker_figures figures() const {
    plum_worker_figures figures;
    plum_worker_look(get(), &figures);
    return figures;
  }
  plum_worker *get() const noexcept { return worker_.get(); }

private:
  struct Parts {
    std::vector<std::unique_ptr<Handler>> handlers;
    Handler on_cancel;
    Log log;
  };

  // The first trouble stays, also that there is no worker to set anything of.
  template <class F, class... A> Worker &set(F call, A... arguments) {
    const Status status = get() == nullptr ? status_ : Status(call(get(), arguments...));
    if (status_.ok())
      status_ = status;
#ifndef PLUM_NO_EXCEPTIONS
    status.check();
#endif
    return *this;
  }
  Worker &add(const std::string &name, Handler handler) {
    parts_->handlers.emplace_back(new Handler(std::move(handler)));
    return set(plum_worker_add_task, name.c_str(), &Worker::on_call,
               parts_->handlers.back().get());
  }
  template <class F> static Handler wrap(F handler, std::true_type) { return handler; }
  template <class F> static Handler wrap(F handler, std::false_type) {
    return [handler](Attempt &attempt) mutable {
      const std::string json = handler(attempt);
      if (!attempt.deferred())
        attempt.finish(json);
    };
  }
  // No exception crosses the C code.
  static void on_call(plum_attempt *raw, void *context) {
    Attempt attempt(raw);
    const Handler &handler = *static_cast<Handler *>(context);
#ifndef PLUM_NO_EXCEPTIONS
    try {
      handler(attempt);
    } catch (const TaskFailed &failed) {
      attempt.fail(failed.what(), failed.code(), failed.retry(), failed.retry_after_ms());
    } catch (const std::exception &error) {
      attempt.fail(error.what(), "handler_error");
    } catch (...) {
      attempt.fail("the handler threw what is no std::exception", "handler_error");
    }
#else
    handler(attempt);
#endif
  }
  // What it throws ends nothing: the attempt is its handler's, which may be ending it just now.
  static void on_stop(plum_attempt *raw, void *context) {
    Attempt attempt(raw);
    const Handler &handler = *static_cast<Handler *>(context);
    if (!handler)
      return;
#ifndef PLUM_NO_EXCEPTIONS
    try {
      handler(attempt);
    } catch (...) {
    }
#else
    handler(attempt);
#endif
  }
  static void on_log(void *context, int level, const char *text) {
    const Log &log = static_cast<Parts *>(context)->log;
    if (!log)
      return;
#ifndef PLUM_NO_EXCEPTIONS
    try {
      log(level, text);
    } catch (...) {  // there is nobody to tell
    }
#else
    log(level, text);
#endif
  }

  Status status_;
  std::unique_ptr<Parts> parts_;
  detail::Owned<plum_worker> worker_;
};

// ---------------------------------------------------------------- tasks

class Task {
public:
  Task() = default;
  explicit Task(plum_task *task) noexcept : task_(task) {}
  std::string id() const { return plum_task_id(task_.get()); }
  plum_task_state state() const { return plum_task_get_state(task_.get()); }
  bool over() const { return plum_task_is_over(task_.get()) != 0; }
  bool succeeded() const { return state() == PLUM_TASK_SUCCEEDED; }
  std::string result() const { return plum_task_result(task_.get(), nullptr); }
  std::string error_code() const { return plum_task_error_code(task_.get()); }
  std::string error_message() const { return plum_task_error_message(task_.get()); }
  Json json() const { return Json(plum_task_json(task_.get())); }

private:
  detail::Owned<plum_task> task_;
};

// What is asked for; see plum_order_new.
class Order {
public:
  explicit Order(const std::string &name, const std::string &payload_json = std::string()) {
    plum_order *made = nullptr;
    status_ = plum_order_new(name.c_str(), &made);
    order_.reset(made);
    if (status_.ok() && !payload_json.empty())
      status_ = plum_order_set_payload(made, payload_json.data(), payload_json.size());
  }
  Order &priority(int v) { return note(plum_order_set_priority(get(), v)); }
  Order &timeout_ms(std::int64_t v) { return note(plum_order_set_timeout_ms(get(), v)); }
  Order &delay_ms(std::int64_t v) { return note(plum_order_set_delay_ms(get(), v)); }
  Order &retries(int v) { return note(plum_order_set_retries(get(), v)); }
  Order &label(const std::string &name, const std::string &value) {
    return note(plum_order_set_label(get(), name.c_str(), value.c_str()));
  }
  Order &json(const std::string &name, const std::string &value) {
    return note(plum_order_set_json(get(), name.c_str(), value.c_str()));
  }
  Status status() const noexcept { return status_; }
  plum_order *get() const noexcept { return order_.get(); }

private:
  Order &note(Status status) {
    if (status_.ok())
      status_ = status;
    return *this;
  }
  Status status_;
  detail::Owned<plum_order> order_;
};

// ---------------------------------------------------------------- the client

struct Entry {
  std::string key, value, type;
  std::int64_t version = 0, updated_ms = 0, expires_ms = 0;
  bool deleted = false;

  Entry() = default;
  explicit Entry(const plum_kv_entry &from)
      : key(from.key), value(from.value, from.value_bytes), type(from.type),
        version(from.version), updated_ms(from.updated_ms), expires_ms(from.expires_ms),
        deleted(from.deleted != 0) {}
};

struct Endpoint {
  std::string service, instance_id, ip, protocol, version;
  int port = 0;
};

// What became of one order of many: its task, or why it was refused.
struct Submitted {
  std::string task_id, error_code, error_detail, error_field;
  bool ok() const noexcept { return error_code.empty(); }
};

class Client {
public:
  explicit Client(const std::string &url = std::string()) {
    plum_client *made = nullptr;
    status_ = plum_client_new(url.empty() ? nullptr : url.c_str(), &made);
    client_.reset(made);
#ifndef PLUM_NO_EXCEPTIONS
    status_.check();
#endif
  }
  Status status() const noexcept { return status_; }
  Status token(const std::string &v) { return plum_client_set_token(get(), v.c_str()); }
  Status timeout_ms(int v) { return plum_client_set_timeout_ms(get(), v); }
  plum_problem problem() const { return plum_client_problem(get()); }
  std::int64_t retry_after_ms() const { return plum_client_retry_after_ms(get()); }
  plum_client *get() const noexcept { return client_.get(); }

  Result<Task> submit(const Order &order, int wait_ms = 0) {
    plum_task *task = nullptr;
    if (!order.status().ok())
      return order.status();
    return task_of(plum_task_submit(get(), order.get(), wait_ms, &task), task);
  }
  // Many in one request, each accepted or refused by itself. orders: any range of Order.
  template <class Orders> Result<std::vector<Submitted>> submit_all(const Orders &orders) {
    std::vector<Submitted> all;
    plum_bulk *raw = nullptr;
    Status status = plum_bulk_new(&raw);
    detail::Owned<plum_bulk> bulk(raw);
    for (const Order &order : orders)
      if (status.ok())
        status = order.status().ok() ? Status(plum_bulk_add(raw, order.get())) : order.status();
    if (status.ok())
      status = plum_bulk_submit(get(), raw);
    if (!status.ok())
      return status;
    for (std::size_t i = 0; i < plum_bulk_size(raw); i++) {
      const plum_problem problem = plum_bulk_problem(raw, i);
      all.push_back({plum_bulk_task_id(raw, i), problem.code, problem.detail, problem.field});
    }
    return all;
  }
  Result<Task> task(const std::string &id) {
    plum_task *task = nullptr;
    return task_of(plum_task_get(get(), id.c_str(), &task), task);
  }
  Result<Task> wait(const std::string &id, int timeout_ms) {
    plum_task *task = nullptr;
    return task_of(plum_task_wait(get(), id.c_str(), timeout_ms, &task), task);
  }
  Result<Task> cancel(const std::string &id, int wait_ms = 0) {
    plum_task *task = nullptr;
    return task_of(plum_task_cancel(get(), id.c_str(), wait_ms, &task), task);
  }

private:
  static Result<Task> task_of(Status status, plum_task *raw) {
    Task task(raw);
    return status.ok() ? Result<Task>(std::move(task)) : Result<Task>(status);
  }
  Status status_;
  detail::Owned<plum_client> client_;
};

// One namespace of the key-value store.
class Kv {
public:
  Kv(Client &client, std::string space) : client_(&client), space_(std::move(space)) {}

  Result<Entry> get(const std::string &key) {
    plum_kv_list *raw = nullptr;
    const Status status = plum_kv_get(client_->get(), space_.c_str(), key.c_str(), &raw);
    detail::Owned<plum_kv_list> list(raw);
    return status.ok() ? Result<Entry>(Entry(*plum_kv_list_at(raw, 0))) : Result<Entry>(status);
  }
  Result<std::vector<Entry>> list(const std::string &prefix = std::string()) {
    plum_kv_list *raw = nullptr;
    std::vector<Entry> entries;
    const Status status = plum_kv_list_get(client_->get(), space_.c_str(), prefix.c_str(), &raw);
    detail::Owned<plum_kv_list> owned(raw);
    if (!status.ok())
      return status;
    for (std::size_t i = 0; i < plum_kv_list_size(raw); i++)
      entries.emplace_back(*plum_kv_list_at(raw, i));
    return entries;
  }
  // The version that it has now.
  Result<std::int64_t> put(const std::string &key, const std::string &value,
                           const std::string &type = "string", std::int64_t ttl_ms = 0) {
    return cas(key, PLUM_ANY_VERSION, value, type, ttl_ms);
  }
  Result<std::int64_t> cas(const std::string &key, std::int64_t if_version,
                           const std::string &value, const std::string &type = "string",
                           std::int64_t ttl_ms = 0) {
    std::int64_t version = 0;
    const Status status = plum_kv_cas(client_->get(), space_.c_str(), key.c_str(), if_version,
                                      value.data(), value.size(), type.c_str(), ttl_ms, &version);
    return status.ok() ? Result<std::int64_t>(version) : Result<std::int64_t>(status);
  }
  Status remove(const std::string &key, std::int64_t if_version = PLUM_ANY_VERSION) {
    return plum_kv_delete(client_->get(), space_.c_str(), key.c_str(), if_version);
  }

  // What is there and then what changes.
  class Watch {
  public:
    Watch(const Client &client, const std::string &space, const std::string &prefix) {
      plum_kv_watch *made = nullptr;
      status_ = plum_kv_watch_new(client.get(), space.c_str(), prefix.c_str(), &made);
      watch_.reset(made);
    }
    Result<Entry> next(int timeout_ms) {
      const plum_kv_entry *entry = nullptr;
      if (!status_.ok())
        return status_;
      const Status status = plum_kv_watch_next(watch_.get(), timeout_ms, &entry);
      return status.ok() ? Result<Entry>(Entry(*entry)) : Result<Entry>(status);
    }

  private:
    Status status_;
    detail::Owned<plum_kv_watch> watch_;
  };
  Watch watch(const std::string &prefix = std::string()) const {
    return Watch(*client_, space_, prefix);
  }

private:
  Client *client_;
  std::string space_;
};

// Finds endpoints of services; see plum_resolver_new.
class Resolver {
public:
  explicit Resolver(Client &client, int cache_ms = 5000) {
    plum_resolver *made = nullptr;
    status_ = plum_resolver_new(client.get(), cache_ms, &made);
    resolver_.reset(made);
  }
  Result<Endpoint> pick(const std::string &service, plum_strategy strategy = PLUM_ROUND_ROBIN) {
    plum_endpoint found = {};
    if (!status_.ok())
      return status_;
    const Status status = plum_resolver_pick(resolver_.get(), service.c_str(), strategy, &found);
    if (!status.ok())
      return status;
    Endpoint endpoint;
    endpoint.service = service;
    endpoint.instance_id = found.instance_id;
    endpoint.ip = found.ip;
    endpoint.port = found.port;
    endpoint.protocol = found.protocol;
    endpoint.version = found.version == nullptr ? "" : found.version;
    return endpoint;
  }
  void blame(const Endpoint &endpoint) {
    plum_endpoint raw = {};
    raw.service = endpoint.service.c_str();
    raw.instance_id = endpoint.instance_id.c_str();
    raw.ip = endpoint.ip.c_str();
    raw.port = endpoint.port;
    raw.protocol = endpoint.protocol.c_str();
    plum_resolver_blame(resolver_.get(), &raw);
  }

private:
  Status status_;
  detail::Owned<plum_resolver> resolver_;
};

// ---------------------------------------------------------------- devices

class Device {
public:
  // 0 = done, else 400 .. 599 with the reason in `answer`.
  using Operation = std::function<int(const std::string &name, const std::string &value,
                                      std::string &answer)>;

  Device(const std::string &url, const std::string &id, const std::string &type)
      : operation_(new Operation) {
    plum_device *made = nullptr;
    status_ = plum_device_new(url.empty() ? nullptr : url.c_str(), id.c_str(), type.c_str(), &made);
    device_.reset(made);
#ifndef PLUM_NO_EXCEPTIONS
    status_.check();
#endif
  }
  Status status() const noexcept { return status_; }
  Status add_state(const std::string &name, const std::string &type, const std::string &unit) {
    return plum_device_add_state(get(), name.c_str(), type.c_str(), unit.c_str());
  }
  Status add_operation(const std::string &name, const std::string &type,
                       const std::string &unit = "", const std::string &min = "",
                       const std::string &max = "") {
    return plum_device_add_operation(get(), name.c_str(), type.c_str(), unit.c_str(), min.c_str(),
                                     max.c_str());
  }
  Status on_operation(Operation operation) {
    *operation_ = std::move(operation);
    return plum_device_on_operation(get(), &Device::on_call, operation_.get());
  }
  Status listen(const std::string &host, int port) {
    return plum_device_listen(get(), host.c_str(), port);
  }
  Status set_state(const std::string &name, const std::string &value) {
    return plum_device_set_state(get(), name.c_str(), value.c_str());
  }
  Status run() PLUM_MUST_USE { return plum_device_run(get()); }
  void stop() noexcept { plum_device_stop(get()); }
  plum_device *get() const noexcept { return device_.get(); }

private:
  static int on_call(void *context, const char *name, const char *value, plum_buffer *answer) {
    std::string said;
    int status = 500;
#ifndef PLUM_NO_EXCEPTIONS
    try {
      status = (*static_cast<Operation *>(context))(name, value, said);
    } catch (const std::exception &error) {
      said = error.what();
    } catch (...) {
      said = "the operation threw what is no std::exception";
    }
#else
    status = (*static_cast<Operation *>(context))(name, value, said);
#endif
    plum_buffer_add(answer, said.data(), said.size());
    return status;
  }
  Status status_;
  std::unique_ptr<Operation> operation_;
  detail::Owned<plum_device> device_;
};

}  // namespace plum

#endif
