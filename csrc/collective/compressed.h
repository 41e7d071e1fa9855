#pragma once
// Collectives on encoded bytes: scatter, reduce, all-gather (SRA). Every rank encodes the tiles
// that others own and sends each to its owner; the owner adds up what came, in rank order and in
// float32, encodes the sum once, and sends those bytes to everybody; all, the owner included,
// decode the same bytes. So the error does not grow with the number of ranks, as it does in a ring
// that encodes at every hop, and all ranks end with the same bits. Every tile crosses the wire
// twice, in segments: while one is on its way, the next is encoded and the one before it summed.
#include <array>
#include <atomic>
#include <memory>
#include <optional>
#include <vector>

#include "collective/hierarchy.h"
#include "compress/tiles.h"
#include "core/clock.h"

namespace quoit {

// What compression did, added up over calls; read from any thread.
struct CompressionReport {
  std::atomic<std::uint64_t> calls{0};
  std::atomic<std::uint64_t> plain_bytes{0};  // that a rank would have sent without codecs
  std::atomic<std::uint64_t> sent_bytes{0};   // that this rank has sent
  std::atomic<std::uint64_t> codec_nanos{0};  // spent in kernels
};

// How the tensors of a buffer are compressed: made once, used by many calls.
class Compression {
 public:
  // `parts` cover a buffer from its beginning to its end, in order.
  explicit Compression(std::vector<Part> parts);

  [[nodiscard]] const std::vector<Part>& parts() const { return parts_; }

  // Equal on ranks that mean the same: sizes, codecs, which tensors have residuals.
  [[nodiscard]] const std::array<std::uint8_t, 4>& digest() const { return digest_; }

 private:
  std::vector<Part> parts_;
  std::array<std::uint8_t, 4> digest_;
};

// Adds the time in its scope to a report's.
class Timed {
 public:
  explicit Timed(CompressionReport& report) : report_(report), start_(Clock::now()) {}
  ~Timed() {
    report_.codec_nanos += static_cast<std::uint64_t>(
        std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start_).count());
  }
  Timed(const Timed&) = delete;
  Timed& operator=(const Timed&) = delete;

 private:
  CompressionReport& report_;
  Clock::time_point start_;
};

// What differs from call to call.
struct CompressionTerms {
  float unit = 1;          // of residuals: the scale of a scaled loss
  std::uint64_t seed = 0;  // of random rounding: equal on all ranks; calls differ by their number
  // Compare results when all is done: all ranks raise where one holds other bits, or was given
  // another fingerprint (of parameters, say).
  std::optional<std::uint64_t> fingerprint;
  std::shared_ptr<CompressionReport> report = std::make_shared<CompressionReport>();
};

// ---- What every way of a compressed collective begins with.

// Throws UsageError for another op.
void check_mean_or_sum(ReduceOp op);

// Whether there is a block for each of the ranks, and no low-rank part (UsageError).
void check_blocks(const Compression& how, int ranks, const char* what);

// Whether the output of a reduce_scatter is like this rank's block of the input (UsageError).
void check_block(const Compression& how, int rank, const View& data, const View& out);

// Each part as a range of tiles.
std::vector<TileRange> blocks_of(const Compression& how);

// Without the rank, and with the seed of all calls.
Terms terms_of(const CompressionTerms& how, const Reduction& reduction, int ranks);

// What a compressed collective works with.
struct Compressor {
  std::shared_ptr<const Compression> how;  // whose codecs the tiles use
  Terms terms;
  std::shared_ptr<Workspace> workspace;
  std::shared_ptr<CompressionReport> report;
};

// Sums tiles over the ranks of the ring, in place. `ring` gives the order of addition.
Task sra_all_reduce(Network& net, Ring ring, std::vector<Tile> tiles, Compressor by);

// Sums blocks of tiles; the rank at position i of the ring ends with the sum of block i, where its
// own part was.
Task sra_reduce_scatter(Network& net, Ring ring, std::vector<Tile> tiles,
                        std::vector<TileRange> blocks, Compressor by);

// Hands the blocks round: that of position i is encoded there. Its owner ends with what others
// decode.
Task sra_all_gather(Network& net, Ring ring, std::vector<Tile> tiles, std::vector<TileRange> blocks,
                    Compressor by);

// The same as sra_all_reduce for several hosts with several ranks each: summed as they are inside
// the hosts, by SRA across them, copied inside.
Task hierarchical_sra(Board& board, Network& net, Lanes lanes, Call call, std::vector<Tile> tiles,
                      Compressor by);

// What a rank holds when all is done.
struct ReplicaClaim {
  std::uint64_t result;  // a hash of its bytes
  std::uint64_t fingerprint;

  // Throws Error where that rank holds something else.
  void check(const ReplicaClaim& theirs, int rank) const;
};

// Whether every rank of the ring holds the same; where one does not, the collective fails on all of
// them (Error).
Task compare_replicas(Network& net, Ring ring, ReplicaClaim mine);

}  // namespace quoit
