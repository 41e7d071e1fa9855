// Compares transport/mpi_abi.h with the mpi.h of one MPI. Built with that MPI's compiler and
// -DQUOIT_ABI=MpichAbi, OpenMpiAbi or StandardAbi; run without mpirun. Types and signatures are
// checked by compiling; values by running: prints what differs and returns how many things do.
#include <dlfcn.h>
#include <mpi.h>

#include <cstddef>
#include <cstdio>
#include <cstring>
#include <type_traits>
#ifdef OPEN_MPI
#include <mpi-ext.h>
#endif

#include "transport/mpi_abi.h"

using Abi = quoit::QUOIT_ABI;
using Calls = quoit::MpiCalls<Abi>;

// What mpi_abi.h must have where the header says T.
template <class T>
auto ours() {
  if constexpr (std::is_same_v<T, MPI_Comm>)
    return std::type_identity<Abi::Comm>{};
  else if constexpr (std::is_same_v<T, MPI_Group>)
    return std::type_identity<Abi::Group>{};
  else if constexpr (std::is_same_v<T, MPI_Datatype>)
    return std::type_identity<Abi::Datatype>{};
  else if constexpr (std::is_same_v<T, MPI_Request>)
    return std::type_identity<Abi::Request>{};
  else if constexpr (std::is_same_v<T, MPI_Message>)
    return std::type_identity<Abi::Message>{};
  else if constexpr (std::is_same_v<T, MPI_Errhandler>)
    return std::type_identity<Abi::Errhandler>{};
  else if constexpr (std::is_same_v<T, MPI_Status>)
    return std::type_identity<Abi::Status>{};
  else if constexpr (std::is_const_v<T>)
    return std::type_identity<const typename decltype(ours<std::remove_const_t<T>>())::type>{};
  else if constexpr (std::is_pointer_v<T>)
    return std::type_identity<typename decltype(ours<std::remove_pointer_t<T>>())::type*>{};
  else
    return std::type_identity<T>{};
}

template <class Header, class Ours>
struct SameSignature : std::false_type {};
template <class... Header, class... Ours>
struct SameSignature<int (*)(Header...), quoit::MpiCall<Ours...>>
    : std::is_same<int(typename decltype(ours<Header>())::type...), int(Ours...)> {};

template <class Header, class Ours>
constexpr bool kSameKind =
    sizeof(Header) == sizeof(Ours) && std::is_pointer_v<Header> == std::is_pointer_v<Ours>;

static_assert(kSameKind<MPI_Comm, Abi::Comm>);
static_assert(kSameKind<MPI_Group, Abi::Group>);
static_assert(kSameKind<MPI_Datatype, Abi::Datatype>);
static_assert(kSameKind<MPI_Request, Abi::Request>);
static_assert(kSameKind<MPI_Message, Abi::Message>);
static_assert(kSameKind<MPI_Errhandler, Abi::Errhandler>);
static_assert(std::is_same_v<MPI_Count, Abi::Count>);
static_assert(std::is_same_v<MPI_Aint, Calls::Address>);

static_assert(sizeof(Abi::Status) == sizeof(MPI_Status));
static_assert(alignof(Abi::Status) == alignof(MPI_Status));
static_assert(offsetof(Abi::Status, source) == offsetof(MPI_Status, MPI_SOURCE));
static_assert(offsetof(Abi::Status, tag) == offsetof(MPI_Status, MPI_TAG));
static_assert(offsetof(Abi::Status, error) == offsetof(MPI_Status, MPI_ERROR));

static_assert(quoit::kMpiTextBytes >= MPI_MAX_ERROR_STRING);
static_assert(quoit::kMpiTextBytes >= MPI_MAX_LIBRARY_VERSION_STRING);
static_assert(MPI_SUCCESS == 0);

// Beyond the standard, where the header has it.
using Extensions = quoit::MpiExtensions;
template <class Header, class Ours>
constexpr bool kSameType = std::is_same_v<Header, Ours>;
#if defined(OPEN_MPI) || defined(MPIX_GPU_SUPPORT_CUDA)
static_assert(
    kSameType<decltype(&MPIX_Query_cuda_support), decltype(Extensions::query_cuda_support)>);
#endif
#ifdef MPIX_GPU_SUPPORT_CUDA
static_assert(
    kSameType<decltype(&MPIX_GPU_query_support), decltype(Extensions::gpu_query_support)>);
static_assert(Extensions::kCuda == MPIX_GPU_SUPPORT_CUDA);
#endif

int differences = 0;
int functions = 0;

template <class T>
void compare(const char* name, T mine, T header) {
  if (mine == header) return;
  ++differences;
  std::printf("%s differs\n", name);
}

template <class Header, class Ours>
void compare_call(const char* name, Header, const Ours& mine) {
  static_assert(SameSignature<Header, Ours>::value);
  ++functions;
  compare(name, std::strcmp(mine.name(), name), 0);
}

#define HANDLE(mine, header) compare(#header, calls.mine, (decltype(Abi::mine))(header))
#define VALUE(mine, header) compare(#header, static_cast<int>(Abi::mine), static_cast<int>(header))
#define CALL(mine, header) compare_call(#header, &header, calls.mine)

int main() {
  int found = 0;
  const Calls calls([&](const char* name) {
    void* symbol = dlsym(RTLD_DEFAULT, name);
    if (symbol == nullptr) std::printf("%s is not in the library\n", name);
    if (symbol == nullptr) ++differences;
    if (std::strncmp(name, "MPI_", 4) == 0) ++found;
    return symbol;
  });

  HANDLE(comm_world, MPI_COMM_WORLD);
  HANDLE(byte, MPI_BYTE);
  HANDLE(request_null, MPI_REQUEST_NULL);
  HANDLE(errors_return, MPI_ERRORS_RETURN);
  VALUE(kAnySource, MPI_ANY_SOURCE);
  VALUE(kAnyTag, MPI_ANY_TAG);
  VALUE(kTagUb, MPI_TAG_UB);
  VALUE(kThreadMultiple, MPI_THREAD_MULTIPLE);
  VALUE(kErrInStatus, MPI_ERR_IN_STATUS);

  CALL(initialized, MPI_Initialized);
  CALL(finalized, MPI_Finalized);
  CALL(init_thread, MPI_Init_thread);
  CALL(query_thread, MPI_Query_thread);
  CALL(finalize, MPI_Finalize);
  CALL(get_library_version, MPI_Get_library_version);
  CALL(error_string, MPI_Error_string);
  CALL(error_class, MPI_Error_class);
  CALL(comm_rank, MPI_Comm_rank);
  CALL(comm_size, MPI_Comm_size);
  CALL(comm_get_attr, MPI_Comm_get_attr);
  CALL(comm_get_errhandler, MPI_Comm_get_errhandler);
  CALL(comm_set_errhandler, MPI_Comm_set_errhandler);
  CALL(errhandler_free, MPI_Errhandler_free);
  CALL(comm_group, MPI_Comm_group);
  CALL(group_incl, MPI_Group_incl);
  CALL(group_free, MPI_Group_free);
  CALL(comm_create_group, MPI_Comm_create_group);
  CALL(comm_free, MPI_Comm_free);
  CALL(type_create_hindexed, MPI_Type_create_hindexed);
  CALL(type_commit, MPI_Type_commit);
  CALL(type_free, MPI_Type_free);
  CALL(isend, MPI_Isend);
  CALL(improbe, MPI_Improbe);
  CALL(imrecv, MPI_Imrecv);
  CALL(get_elements_x, MPI_Get_elements_x);
  CALL(test, MPI_Test);
  CALL(testsome, MPI_Testsome);
  CALL(iallgather, MPI_Iallgather);
  CALL(iallgatherv, MPI_Iallgatherv);

  compare("the number of functions that are compared", functions, found);
  std::printf("%d functions, %d differences\n", functions, differences);
  return differences;
}
