#pragma once
// Ranks as threads: runs the same body on every rank of a world, and checks.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <iostream>
#include <thread>
#include <vector>

#include "collective/connect.h"

namespace quoit::test {

// Stops the test, saying where and what.
#define EXPECT(condition, ...)                                               \
  do {                                                                       \
    if (!(condition)) {                                                      \
      std::cerr << __FILE__ << ":" << __LINE__ << ": " << #condition << ": " \
                << ::quoit::text(__VA_ARGS__) << std::endl;                  \
      std::_Exit(1);                                                         \
    }                                                                        \
  } while (false)

// Where the ranks live: `ranks` of them, dealt out to `hosts` hosts in blocks.
inline std::vector<std::string> hosts_of(int ranks, int hosts) {
  std::vector<std::string> names;
  for (int r = 0; r < ranks; ++r) names.push_back(text("host", r * hosts / ranks));
  return names;
}

inline std::vector<ThreadRank> make_world(const std::vector<std::string>& hosts,
                                          const std::string& algorithm = "auto",
                                          double timeout = 60,
                                          const std::string& transport = "auto",
                                          SingleCopy single_copy = SingleCopy::Auto) {
  ConnectOptions options;
  options.single_copy = single_copy;
  options.transport = transport;
  options.tcp.interfaces = "lo";
  options.algorithm = algorithm;
  options.timeout = Seconds(timeout);
  return connect_threads(hosts, options);
}

// Runs `body` on every rank at once; what a rank throws ends the test.
inline void on_all(std::vector<ThreadRank>& world, const std::function<void(Communicator&)>& body) {
  std::vector<std::thread> threads;
  for (ThreadRank& rank : world)
    threads.emplace_back([&body, &rank] {
      try {
        body(*rank.communicator);
      } catch (const std::exception& e) {
        EXPECT(false, e.what());
      }
    });
  for (std::thread& thread : threads) thread.join();
}

// What `body` throws; empty when it throws nothing.
inline std::string error_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const std::exception& e) {
    return e.what();
  }
  return {};
}

inline void contains(const std::string& text, const std::string& part) {
  EXPECT(text.find(part) != std::string::npos, "'", part, "' is not in '", text, "'");
}

inline void wait(Communicator& c, const Communicator::Handle& work) { c.engine().wait(*work); }

template <class T>
View view(std::vector<T>& values, DType dtype) {
  return {reinterpret_cast<std::byte*>(values.data()), values.size(), dtype};
}

// Small whole numbers: their sums are exact in every type.
inline float value(std::size_t index, int rank) {
  return static_cast<float>((7 * index + 5 * static_cast<std::size_t>(rank)) % 13);
}

inline std::vector<float> filled(std::size_t count, int rank) {
  std::vector<float> values(count);
  for (std::size_t i = 0; i < count; ++i) values[i] = value(i, rank);
  return values;
}

}  // namespace quoit::test
