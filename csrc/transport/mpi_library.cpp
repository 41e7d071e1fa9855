#include "transport/mpi_library.h"

#include <unistd.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <thread>
#include <utility>

namespace quoit {
namespace {

// "Open MPI v5.0.11, package: ..." and "MPICH Version:      5.0.2\n..." say enough up to there.
std::string first_words(const std::string& text) {
  std::string words;
  for (const char c : text.substr(0, text.find_first_of(",\n")))
    if (c > ' ' || (!words.empty() && words.back() != ' ')) words += c > ' ' ? c : ' ';
  return words;
}

bool says_cuda(const MpiExtensions& extensions) {
  int is_so = 0;
  if (extensions.gpu_query_support != nullptr)
    return extensions.gpu_query_support(MpiExtensions::kCuda, &is_so) == 0 && is_so != 0;
  return extensions.query_cuda_support != nullptr && extensions.query_cuda_support() == 1;
}

}  // namespace

template <class Abi>
LoadedMpi<Abi>::LoadedMpi(const MpiLookup& find, const MpiExtensions& extensions, std::string path)
    : calls_(find), path_(std::move(path)), owner_(getpid()) {
  std::string words(kMpiTextBytes, '\0');
  int length = 0;
  calls_.get_library_version(words.data(), &length);
  version_ = first_words(words.substr(0, static_cast<std::size_t>(length)));

  initialise();
  const ErrorsReturn guard(*this);
  int level = 0;
  must(calls_.query_thread, &level);
  thread_multiple_ = level >= Abi::kThreadMultiple;
  must(calls_.comm_rank, calls_.comm_world, &world_rank_);
  must(calls_.comm_size, calls_.comm_world, &world_size_);
  int* highest = nullptr;
  int found = 0;
  must(calls_.comm_get_attr, calls_.comm_world, Abi::kTagUb, static_cast<void*>(&highest), &found);
  takes_device_memory_ = says_cuda(extensions);
  highest_tag_ = found != 0 ? *highest : 32767;  // what the standard promises at the least
}

template <class Abi>
void LoadedMpi<Abi>::initialise() {
  int begun = 0;
  calls_.initialized(&begun);
  QUOIT_CHECK(!over(), UnavailableError, version_, " (", path_, ") was already finalised in this ",
              "process, and MPI begins only once: create the groups of Quoit before MPI_Finalize");
  if (begun != 0) return;
  int level = 0;
  const int code = calls_.init_thread(nullptr, nullptr, Abi::kThreadMultiple, &level);
  QUOIT_CHECK(code == 0, UnavailableError, "MPI_Init_thread of ", version_, " (", path_,
              ") failed with code ", code,
              ": start the job with the mpirun of the same installation");
  initialised_here_ = true;
}

template <class Abi>
bool LoadedMpi<Abi>::alive() const {
  if (getpid() != owner_) return false;
  int begun = 0;
  calls_.initialized(&begun);
  return begun != 0 && !over();
}

template <class Abi>
bool LoadedMpi<Abi>::over() const {
  int finalized = 0;
  calls_.finalized(&finalized);
  return finalized != 0;
}

template <class Abi>
void LoadedMpi<Abi>::finalize() {
  if (initialised_here_ && !abandoned_ && alive()) must(calls_.finalize);
}

template <class Abi>
std::string LoadedMpi<Abi>::error_text(int code) const {
  std::string words(kMpiTextBytes, '\0');
  int length = 0;
  if (calls_.error_string(code, words.data(), &length) != 0) return text("error ", code);
  words.resize(static_cast<std::size_t>(length));
  return words;
}

template <class Abi>
LoadedMpi<Abi>::ErrorsReturn::ErrorsReturn(const LoadedMpi& mpi) : calls_(mpi.calls_) {
  calls_.comm_get_errhandler(calls_.comm_world, &before_);
  calls_.comm_set_errhandler(calls_.comm_world, calls_.errors_return);
}

template <class Abi>
LoadedMpi<Abi>::ErrorsReturn::~ErrorsReturn() {
  calls_.comm_set_errhandler(calls_.comm_world, before_);
  calls_.errhandler_free(&before_);
}

template <class Abi>
void LoadedMpi<Abi>::wait(typename Abi::Request& request, Deadline deadline) {
  using namespace std::chrono_literals;
  // Ranks may come seconds apart (imports): after a moment, leave the core to them.
  const Deadline busy = Deadline::after(1ms);
  typename Abi::Status status;
  for (int done = 0;;) {
    must(calls_.test, &request, &done, &status);
    if (done != 0) return;
    if (deadline.passed()) {
      abandon();
      throw TimeoutError(text("rank ", world_rank_, " of ", world_size_,
                              " waited in vain for all others to meet over MPI: every rank that ",
                              "mpirun started must create the group"));
    }
    if (busy.passed())
      std::this_thread::sleep_for(50us);
    else
      std::this_thread::yield();
  }
}

template <class Abi>
std::vector<std::string> LoadedMpi<Abi>::all_gather_strings(const std::string& mine,
                                                            Deadline deadline) {
  QUOIT_CHECK(alive(), UnavailableError, version_,
              " was finalised, or this process was forked from ",
              "the rank: MPI can gather nothing any more");
  // On the heap, for MPI to keep when a wait fails: a request cannot be taken back.
  struct Buffers {
    std::string mine;
    int length;
    std::vector<int> lengths;
    std::vector<int> offsets;
    std::string all;
  };
  const auto ranks = static_cast<std::size_t>(world_size_);
  auto buffers = std::make_unique<Buffers>();
  buffers->mine = mine;
  buffers->length = static_cast<int>(mine.size());
  buffers->lengths.resize(ranks);
  buffers->offsets.resize(ranks);
  Buffers& b = *buffers;

  const ErrorsReturn guard(*this);
  typename Abi::Request request{};
  try {
    constexpr int kIntBytes = sizeof(int);
    must(calls_.iallgather, &b.length, kIntBytes, calls_.byte, b.lengths.data(), kIntBytes,
         calls_.byte, calls_.comm_world, &request);
    wait(request, deadline);
    const auto total = std::accumulate(b.lengths.begin(), b.lengths.end(), std::size_t{0});
    QUOIT_CHECK(total <= std::numeric_limits<int>::max(), UsageError,
                "the strings of all ranks have ", total,
                " bytes together: MPI gathers less than 2 GiB");
    std::exclusive_scan(b.lengths.begin(), b.lengths.end(), b.offsets.begin(), 0);
    b.all.resize(total);
    must(calls_.iallgatherv, b.mine.data(), b.length, calls_.byte, b.all.data(), b.lengths.data(),
         b.offsets.data(), calls_.byte, calls_.comm_world, &request);
    wait(request, deadline);
  } catch (...) {
    static_cast<void>(buffers.release());
    throw;
  }

  std::vector<std::string> strings;
  strings.reserve(ranks);
  for (std::size_t rank = 0; rank < ranks; ++rank)
    strings.push_back(b.all.substr(static_cast<std::size_t>(b.offsets[rank]),
                                   static_cast<std::size_t>(b.lengths[rank])));
  return strings;
}

template class LoadedMpi<MpichAbi>;
template class LoadedMpi<OpenMpiAbi>;
template class LoadedMpi<StandardAbi>;

}  // namespace quoit
