// How the ranks of an NCCL group learn of each other's devices, and whether NCCL can serve them.
#include <torch/csrc/utils/pybind.h>

#include <map>
#include <sstream>

#include "core/env.h"
#include "kernels/cuda.h"
#include "torch/nccl_group.h"

namespace quoit {
namespace {

// What a rank says of itself, a line for each.
struct NcclClaim {
  std::string lacks;  // why it has no NCCL; empty if it has
  std::string version;
  bool may_share = false;  // NCCL_MULTI_RANK_GPU_ENABLE
  std::string device;
  std::string no_kernels;  // why it has none for the device; empty if it has

  [[nodiscard]] std::string written() const {
    return text(lacks, "\n", version, "\n", may_share ? "y" : "n", "\n", device, "\n", no_kernels,
                "\n");
  }

  static NcclClaim read(const std::string& said) {
    std::istringstream lines(said);
    NcclClaim claim;
    std::string share;
    QUOIT_CHECK(std::getline(lines, claim.lacks) && std::getline(lines, claim.version) &&
                    std::getline(lines, share) && std::getline(lines, claim.device) &&
                    std::getline(lines, claim.no_kernels),
                TransportError,
                "the store that the ranks meet in holds something else than what ranks wrote: do "
                "all run the same version of quoit, and is the store theirs alone?");
    claim.may_share = share == "y";
    return claim;
  }
};

// Why these ranks cannot use NCCL together, or nothing; the same on whichever rank asks.
std::string obstacle(const std::map<int, NcclClaim>& claims) {
  std::map<std::string, int> devices;
  const auto& [first, example] = *claims.begin();
  for (const auto& [rank, claim] : claims) {
    if (!claim.lacks.empty()) return text("rank ", rank, ": ", claim.lacks);
    if (claim.version != example.version)
      return text("rank ", first, " has NCCL ", example.version, ", rank ", rank, " has ",
                  claim.version);
    const auto [before, is_new] = devices.try_emplace(claim.device, rank);
    if (!is_new && !(claim.may_share && claims.at(before->second).may_share))
      return text("ranks ", before->second, " and ", rank, " share one device (", claim.device,
                  "), which NCCL does not serve unless NCCL_MULTI_RANK_GPU_ENABLE is set");
  }
  return {};
}

// What Python knows of a device: only it can ask for its UUID.
std::string nccl_identity_of(c10::Device device) {
  const py::gil_scoped_acquire here;
  return py::module_::import("quoit.nccl")
      .attr("device_identity")(c10::DeviceTypeName(device.type(), true),
                               static_cast<int>(device.index()))
      .cast<std::string>();
}

// Why the kernels of this process cannot work on the device, or nothing.
std::string kernels_lack(c10::Device device) {
  if (cuda::offered() != nullptr) return {};
  if (device.type() != c10::DeviceType::CUDA)
    return text("quoit's kernels are for CUDA devices, not for ", device.str());
  try {
    cuda::require();
  } catch (const Error& error) {
    return error.what();
  }
  return cuda::unfit(device.index());
}

std::string without_newlines(std::string words) {
  std::replace(words.begin(), words.end(), '\n', ' ');
  return words;
}

}  // namespace

std::string NcclGroup::said_of_itself() const {
  NcclClaim claim;
  claim.may_share = env::read("NCCL_MULTI_RANK_GPU_ENABLE").value_or("0") != "0";
  claim.device = without_newlines(options_.device_identity.empty() ? nccl_identity_of(*device_)
                                                                   : options_.device_identity);
  if (library_ != nullptr) claim.version = library_->version_text();
  claim.no_kernels = without_newlines(kernels_lack(*device_));
  return claim.written();
}

void NcclGroup::introduce() {
  if (introduced_) return;
  std::string said;
  try {
    QUOIT_CHECK(!off_, UnavailableError, "QUOIT_NCCL=off");
    library_ = &NcclLibrary::load(options_.libraries);
    said = said_of_itself();
  } catch (const Error& error) {
    NcclClaim claim;
    claim.lacks = without_newlines(error.what());
    said = claim.written();
  }
  state_->store.set(text("device/", state_->rank), said);
  introduced_ = true;
  if (!off_) nccl_watch(state_);
}

std::string NcclGroup::hear_of(int peer) {
  const Seconds timeout = timeout_of(c10d::kUnsetTimeout);
  const Deadline deadline = Deadline::after(timeout);
  const auto said = state_->store.await(text("device/", peer), [&] {
    return deadline.passed() || state_->failed() || state_->closed();
  });
  state_->check();
  QUOIT_CHECK(said, TimeoutError, "waited ", timeout.count(), " s for rank ", peer,
              " to use NCCL in this group: has it called the same operation, with tensors on an "
              "accelerator?");
  return *said;
}

const std::string& NcclGroup::unusable(c10::Device device) {
  const std::scoped_lock lock(calling_);
  if (unusable_) return *unusable_;
  bind(device);
  if (off_) return unusable_.emplace(text("rank ", rank_, ": QUOIT_NCCL=off"));
  introduce();
  std::map<int, NcclClaim> claims;
  for (int other = 0; other < size_; ++other) claims[other] = NcclClaim::read(hear_of(other));
  for (const auto& [rank, claim] : claims)
    if (no_kernels_.empty() && !claim.no_kernels.empty())
      no_kernels_ = text("rank ", rank, ": ", claim.no_kernels);
  return unusable_.emplace(obstacle(claims));
}

std::string NcclGroup::unusable(c10::Device device, int peer) {
  const std::scoped_lock lock(calling_);
  if (const auto met = met_.find(peer); met != met_.end()) return met->second;
  if (off_) return unusable(device);
  bind(device);
  introduce();
  std::map<int, NcclClaim> claims;
  for (const int one : {rank_, peer}) claims[one] = NcclClaim::read(hear_of(one));
  return met_[peer] = obstacle(claims);
}

}  // namespace quoit
