// Finds, loads and recognises the MPI library of the process.
#include <dlfcn.h>
#include <link.h>

#include <array>
#include <mutex>
#include <optional>
#include <utility>

#include "transport/mpi_library.h"

namespace quoit {
namespace {

constexpr const char* kEntry = "MPI_Init_thread";
constexpr const char* kFiles =
    "libmpi.so.12 (MPICH, Intel MPI, MVAPICH), libmpi.so.40 (Open MPI) or "
    "libmpi_abi.so.1 (the standard ABI)";

// Components of Open MPI, and an mpi4py that is imported later, find the library among the global
// symbols.
constexpr int kLoad = RTLD_NOW | RTLD_GLOBAL;
constexpr int kFind = RTLD_NOW | RTLD_GLOBAL | RTLD_NOLOAD;

struct Library {
  void* handle;
  std::string path;
};

// The library behind `handle`, or nothing if there is no MPI in it.
std::optional<Library> with_mpi(void* handle) {
  void* entry = handle != nullptr ? dlsym(handle, kEntry) : nullptr;
  Dl_info where{};
  if (entry == nullptr || dladdr(entry, &where) == 0) return std::nullopt;
  return Library{handle, where.dli_fname};
}

int note_mpi_names(dl_phdr_info* object, std::size_t, void* names) {
  const std::string path = object->dlpi_name;
  if (path.substr(path.rfind('/') + 1).starts_with("libmpi"))
    static_cast<std::vector<std::string>*>(names)->push_back(path);
  return 0;
}

// What mpi4py or the program loaded, perhaps without making its symbols global.
std::optional<Library> find_loaded() {
  std::vector<std::string> names;
  dl_iterate_phdr(note_mpi_names, &names);
  for (const std::string& name : names)
    if (auto library = with_mpi(dlopen(name.c_str(), kFind))) return library;
  return std::nullopt;
}

bool same(const std::string& path, const Library& library) {
  const auto other = with_mpi(dlopen(path.c_str(), kFind));
  return other && dlsym(other->handle, kEntry) == dlsym(library.handle, kEntry);
}

Library open(const std::string& path) {
  if (auto loaded = find_loaded()) {
    QUOIT_CHECK(
        path.empty() || same(path, *loaded), UsageError, "asked for the MPI library ", path,
        ", but this process has loaded ", loaded->path,
        ": a process can use one MPI only. Ask for that one, or do not load the other first ",
        "(mpi4py takes the libmpi named by MPI4PY_LIBMPI)");
    return *loaded;
  }
  QUOIT_CHECK(!path.empty(), UnavailableError,
              "no MPI library is loaded in this process, and none ", "was named: name the ", kFiles,
              " of the mpirun that starts the job, or import ", "mpi4py.MPI first");
  void* handle = dlopen(path.c_str(), kLoad);
  // NOLINTNEXTLINE(concurrency-mt-unsafe): each thread has its own
  const char* why = handle == nullptr ? dlerror() : nullptr;
  QUOIT_CHECK(handle != nullptr, UnavailableError, "cannot load the MPI library ", path, ": ", why,
              ". Name the ", kFiles,
              " of the mpirun that starts the job; a file named libmpi.so may ",
              "be a script for the linker only");
  auto library = with_mpi(handle);
  QUOIT_CHECK(library, UnavailableError, path, " has no ", kEntry,
              ", so it is not an MPI library: name ", kFiles);
  return *library;
}

bool standard_abi(void* handle) {
  using GetVersion = int (*)(int*, int*);
  const auto get_version = reinterpret_cast<GetVersion>(dlsym(handle, "MPI_Abi_get_version"));
  int major = 0;
  int minor = 0;
  return get_version != nullptr && get_version(&major, &minor) == 0 && major > 0;
}

std::string library_version(const MpiLookup& find) {
  std::array<char, kMpiTextBytes> words{};
  int length = 0;
  MpiCall<char*, int*>(find, "MPI_Get_library_version")(words.data(), &length);
  return {words.data(), static_cast<std::size_t>(length)};
}

// First as the linker would: a program that is linked with MPI may hold its variables itself.
void* find_or_null(const Library& library, const char* name) {
  void* const symbol = dlsym(RTLD_DEFAULT, name);
  return symbol != nullptr ? symbol : dlsym(library.handle, name);
}

template <class Function>
void find_extension(const Library& library, const char* name, Function*& found) {
  found = reinterpret_cast<Function*>(find_or_null(library, name));
}

std::unique_ptr<MpiLibrary> recognise(const Library& library) {
  const MpiLookup find = [library](const char* name) {
    void* const symbol = find_or_null(library, name);
    QUOIT_CHECK(symbol != nullptr, UnavailableError, "the MPI library ", library.path, " lacks ",
                name, ": MPI 3.0 or later is needed");
    return symbol;
  };
  MpiExtensions extensions;
  find_extension(library, "MPIX_Query_cuda_support", extensions.query_cuda_support);
  find_extension(library, "MPIX_GPU_query_support", extensions.gpu_query_support);
  if (standard_abi(library.handle))
    return std::make_unique<LoadedMpi<StandardAbi>>(find, extensions, library.path);
  if (dlsym(library.handle, "ompi_mpi_comm_world") != nullptr)
    return std::make_unique<LoadedMpi<OpenMpiAbi>>(find, extensions, library.path);
  const std::string version = library_version(find);
  for (const char* family : {"MPICH", "Intel(R) MPI", "MVAPICH", "ParaStation"})
    if (version.find(family) != std::string::npos)
      return std::make_unique<LoadedMpi<MpichAbi>>(find, extensions, library.path);
  throw UnavailableError(text("the MPI library ", library.path,
                              " is of a family that Quoit does not ", "know (\"", version,
                              "\"): use ", kFiles));
}

// The one library of the process. Never destroyed: transports may outlive all static objects.
struct Process {
  std::mutex mutex;
  Library library;
  MpiLibrary* mpi = nullptr;
};

Process& process() {
  static auto* const only = new Process;
  return *only;
}

}  // namespace

MpiLibrary* MpiLibrary::loaded() {
  Process& here = process();
  const std::scoped_lock lock(here.mutex);
  return here.mpi;
}

MpiLibrary& MpiLibrary::load(const std::string& path, int expected_size) {
  Process& here = process();
  const std::scoped_lock lock(here.mutex);
  Library library = open(path);
  if (here.mpi == nullptr) {
    here.mpi = recognise(library).release();
    here.library = std::move(library);
  }
  const int size = here.mpi->world_size();
  if (expected_size == 0 || expected_size == size) return *here.mpi;
  if (size == 1) here.mpi->finalize();
  throw UnavailableError(
      text("the launcher started ", expected_size, " ranks, but ", here.mpi->version(), " (",
           here.library.path, ") sees ", size,
           ": this library and the mpirun that was used are not of one MPI. Start ",
           "the job with the mpirun of that library, or name the libmpi of the ",
           "mpirun that was used"));
}

}  // namespace quoit
