#pragma once
// The binary interfaces of the MPI families, written down here so that Quoit needs no MPI to build
// and serves whichever one the launcher brings: handle types, the layout of a status, the constants
// and the functions that Quoit uses. A test compares every line with the families' own headers.
#include <cstddef>
#include <cstdint>
#include <functional>

namespace quoit {

// Finds a function or variable of the loaded library by name; throws when there is none.
using MpiLookup = std::function<void*(const char* name)>;

// MPICH >= 3.1, Intel MPI, MVAPICH, Cray MPICH: the "MPICH ABI compatibility initiative".
struct MpichAbi {
  using Comm = int;
  using Group = int;
  using Datatype = int;
  using Request = int;
  using Message = int;
  using Errhandler = int;
  using Count = long long;
  struct Status {
    int count_lo;
    int count_hi_and_cancelled;
    int source;
    int tag;
    int error;
  };

  explicit MpichAbi(const MpiLookup&) {}

  Comm comm_world = 0x44000000;
  Datatype byte = 0x4c00010d;
  Request request_null = 0x2c000000;
  Errhandler errors_return = 0x54000001;
  static constexpr int kAnySource = -2;
  static constexpr int kAnyTag = -1;
  static constexpr int kTagUb = 0x64400001;
  static constexpr int kThreadMultiple = 3;
  static constexpr int kErrInStatus = 17;
};

// Open MPI 3 to 5: handles are addresses of objects inside the library.
struct OpenMpiAbi {
  using Comm = struct OpenMpiComm*;
  using Group = struct OpenMpiGroup*;
  using Datatype = struct OpenMpiDatatype*;
  using Request = struct OpenMpiRequest*;
  using Message = struct OpenMpiMessage*;
  using Errhandler = struct OpenMpiErrhandler*;
  using Count = long long;
  struct Status {
    int source;
    int tag;
    int error;
    int cancelled;
    std::size_t bytes;
  };

  explicit OpenMpiAbi(const MpiLookup& find)
      : comm_world(static_cast<Comm>(find("ompi_mpi_comm_world"))),
        byte(static_cast<Datatype>(find("ompi_mpi_byte"))),
        request_null(static_cast<Request>(find("ompi_request_null"))),
        errors_return(static_cast<Errhandler>(find("ompi_mpi_errors_return"))) {}

  Comm comm_world;
  Datatype byte;
  Request request_null;
  Errhandler errors_return;
  static constexpr int kAnySource = -1;
  static constexpr int kAnyTag = -1;
  static constexpr int kTagUb = 0;
  static constexpr int kThreadMultiple = 3;
  static constexpr int kErrInStatus = 18;
};

// The ABI of the MPI 5.0 standard (libmpi_abi.so), whoever implements it.
struct StandardAbi {
  using Comm = struct StandardComm*;
  using Group = struct StandardGroup*;
  using Datatype = struct StandardDatatype*;
  using Request = struct StandardRequest*;
  using Message = struct StandardMessage*;
  using Errhandler = struct StandardErrhandler*;
  using Count = std::int64_t;
  struct Status {
    int source;
    int tag;
    int error;
    int internal[5];
  };

  explicit StandardAbi(const MpiLookup&) {}

  Comm comm_world = reinterpret_cast<Comm>(0x101);
  Datatype byte = reinterpret_cast<Datatype>(0x247);
  Request request_null = reinterpret_cast<Request>(0x180);
  Errhandler errors_return = reinterpret_cast<Errhandler>(0x143);
  static constexpr int kAnySource = -1;
  static constexpr int kAnyTag = -2;
  static constexpr int kTagUb = 501;
  static constexpr int kThreadMultiple = 4096;
  static constexpr int kErrInStatus = 19;
};

// Room for any text of any family: an error, the version of the library.
inline constexpr std::size_t kMpiTextBytes = 8192;

// One function of the library; calling it returns MPI's code, 0 for success.
template <class... Args>
class MpiCall {
 public:
  using Pointer = int (*)(Args...);

  MpiCall(const MpiLookup& find, const char* name)
      : name_(name), call_(reinterpret_cast<Pointer>(find(name))) {}

  int operator()(Args... args) const { return call_(args...); }
  [[nodiscard]] const char* name() const { return name_; }

 private:
  const char* name_;
  Pointer call_;
};

// What a library may be asked about memory of CUDA devices once MPI has begun, beyond the standard;
// null where it lacks it.
struct MpiExtensions {
  static constexpr int kCuda = 0;  // MPIX_GPU_SUPPORT_CUDA

  int (*query_cuda_support)() = nullptr;                     // Open MPI, MPICH: whether it is so
  int (*gpu_query_support)(int kind, int* is_so) = nullptr;  // MPICH: its code
};

// Everything Quoit calls, named as in MPI.
template <class Abi>
struct MpiCalls : Abi {
  using Comm = typename Abi::Comm;
  using Group = typename Abi::Group;
  using Datatype = typename Abi::Datatype;
  using Request = typename Abi::Request;
  using Message = typename Abi::Message;
  using Errhandler = typename Abi::Errhandler;
  using Count = typename Abi::Count;
  using Status = typename Abi::Status;
  using Address = std::ptrdiff_t;  // MPI_Aint

  explicit MpiCalls(const MpiLookup& lookup) : Abi(lookup), find(lookup) {}

  MpiLookup find;

  MpiCall<int*> initialized{find, "MPI_Initialized"};
  MpiCall<int*> finalized{find, "MPI_Finalized"};
  MpiCall<int*, char***, int, int*> init_thread{find, "MPI_Init_thread"};
  MpiCall<int*> query_thread{find, "MPI_Query_thread"};
  MpiCall<> finalize{find, "MPI_Finalize"};
  MpiCall<char*, int*> get_library_version{find, "MPI_Get_library_version"};
  MpiCall<int, char*, int*> error_string{find, "MPI_Error_string"};
  MpiCall<int, int*> error_class{find, "MPI_Error_class"};

  MpiCall<Comm, int*> comm_rank{find, "MPI_Comm_rank"};
  MpiCall<Comm, int*> comm_size{find, "MPI_Comm_size"};
  MpiCall<Comm, int, void*, int*> comm_get_attr{find, "MPI_Comm_get_attr"};
  MpiCall<Comm, Errhandler*> comm_get_errhandler{find, "MPI_Comm_get_errhandler"};
  MpiCall<Comm, Errhandler> comm_set_errhandler{find, "MPI_Comm_set_errhandler"};
  MpiCall<Errhandler*> errhandler_free{find, "MPI_Errhandler_free"};
  MpiCall<Comm, Group*> comm_group{find, "MPI_Comm_group"};
  MpiCall<Group, int, const int*, Group*> group_incl{find, "MPI_Group_incl"};
  MpiCall<Group*> group_free{find, "MPI_Group_free"};
  MpiCall<Comm, Group, int, Comm*> comm_create_group{find, "MPI_Comm_create_group"};
  MpiCall<Comm*> comm_free{find, "MPI_Comm_free"};

  MpiCall<int, const int*, const Address*, Datatype, Datatype*> type_create_hindexed{
      find, "MPI_Type_create_hindexed"};
  MpiCall<Datatype*> type_commit{find, "MPI_Type_commit"};
  MpiCall<Datatype*> type_free{find, "MPI_Type_free"};

  MpiCall<const void*, int, Datatype, int, int, Comm, Request*> isend{find, "MPI_Isend"};
  MpiCall<int, int, Comm, int*, Message*, Status*> improbe{find, "MPI_Improbe"};
  MpiCall<void*, int, Datatype, Message*, Request*> imrecv{find, "MPI_Imrecv"};
  MpiCall<const Status*, Datatype, Count*> get_elements_x{find, "MPI_Get_elements_x"};
  MpiCall<Request*, int*, Status*> test{find, "MPI_Test"};
  MpiCall<int, Request*, int*, int*, Status*> testsome{find, "MPI_Testsome"};
  MpiCall<const void*, int, Datatype, void*, int, Datatype, Comm, Request*> iallgather{
      find, "MPI_Iallgather"};
  MpiCall<const void*, int, Datatype, void*, const int*, const int*, Datatype, Comm, Request*>
      iallgatherv{find, "MPI_Iallgatherv"};
};

}  // namespace quoit
