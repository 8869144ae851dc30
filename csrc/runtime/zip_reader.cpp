#include "runtime/zip_reader.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "runtime/buffer.h"
#include "runtime/xxh64.h"

namespace graphopt {
namespace {

// Numbers of the zip format (PKWARE APPNOTE 6.3): record signatures and fixed sizes.
constexpr uint32_t kEndSignature = 0x06054b50;
constexpr uint32_t kEnd64Signature = 0x06064b50;
constexpr uint32_t kEnd64LocatorSignature = 0x07064b50;
constexpr uint32_t kCentralSignature = 0x02014b50;
constexpr uint32_t kLocalSignature = 0x04034b50;
constexpr size_t kEndSize = 22;
constexpr size_t kEnd64Size = 56;
constexpr size_t kEnd64LocatorSize = 20;
constexpr size_t kCentralSize = 46;
constexpr size_t kLocalSize = 30;
constexpr uint16_t kZip64Extra = 0x0001;
constexpr uint32_t kInZip64 = 0xFFFFFFFF;

constexpr std::string_view kCommentPrefix = "graphopt-xxh64:";
constexpr size_t kCommentSize = kCommentPrefix.size() + 16;
constexpr size_t kMaxMembers = 4096;

[[noreturn]] void fail(const std::string& what) { throw Error("the artifact is damaged: " + what); }

// Bounds-checked little-endian reads.
class Reader {
 public:
  explicit Reader(std::span<const uint8_t> bytes) : bytes_(bytes) {}

  template <class T>
  [[nodiscard]] T get(size_t offset) const {
    static_assert(std::endian::native == std::endian::little);
    T value;
    std::memcpy(&value, slice(offset, sizeof value).data(), sizeof value);
    return value;
  }

  [[nodiscard]] std::span<const uint8_t> slice(uint64_t offset, uint64_t size) const {
    if (offset > bytes_.size() || size > bytes_.size() - offset) fail("a record reaches past the end of the file");
    return bytes_.subspan(static_cast<size_t>(offset), static_cast<size_t>(size));
  }

  [[nodiscard]] std::string_view text(uint64_t offset, uint64_t size) const {
    const auto part = slice(offset, size);
    return {reinterpret_cast<const char*>(part.data()), part.size()};
  }

 private:
  std::span<const uint8_t> bytes_;
};

uint64_t parse_hex(std::string_view digits) {
  uint64_t value = 0;
  for (const char c : digits) {
    const bool digit = c >= '0' && c <= '9';
    if (!digit && (c < 'a' || c > 'f')) fail("the hash in the archive comment is not hexadecimal");
    value = value << 4U | static_cast<uint64_t>(digit ? c - '0' : c - 'a' + 10);
  }
  return value;
}

// Offset of the end record, after the checks of comment and hash.
size_t check_end(std::span<const uint8_t> file, const Parallel& parallel) {
  const Reader reader(file);
  if (file.size() < sizeof kLocalSignature || reader.get<uint32_t>(0) != kLocalSignature)
    throw Error("not a graphopt artifact");
  if (file.size() < kEndSize + kCommentSize) throw Error("the artifact is truncated");
  const size_t end = file.size() - kCommentSize - kEndSize;
  const size_t comment = file.size() - kCommentSize;
  if (reader.get<uint32_t>(end) != kEndSignature || reader.get<uint16_t>(end + 20) != kCommentSize ||
      reader.text(comment, kCommentPrefix.size()) != kCommentPrefix) {
    throw Error("the artifact is truncated or is not a graphopt artifact");
  }
  const uint64_t stored = parse_hex(reader.text(comment + kCommentPrefix.size(), 16));
  if (chunked_xxh64(file.first(comment), parallel) != stored) {
    fail("its contents do not match its hash (the file was altered or copied badly)");
  }
  return end;
}

struct Directory {
  uint64_t count;
  uint64_t size;
  uint64_t offset;
};

Directory find_directory(const Reader& reader, size_t end) {
  Directory directory = {reader.get<uint16_t>(end + 10), reader.get<uint32_t>(end + 12),
                         reader.get<uint32_t>(end + 16)};
  if (directory.count != 0xFFFF && directory.size != kInZip64 && directory.offset != kInZip64) return directory;
  if (end < kEnd64LocatorSize || reader.get<uint32_t>(end - kEnd64LocatorSize) != kEnd64LocatorSignature) {
    fail("the zip64 locator is missing");
  }
  const auto end64 = reader.get<uint64_t>(end - kEnd64LocatorSize + 8);
  (void)reader.slice(end64, kEnd64Size);
  if (reader.get<uint32_t>(static_cast<size_t>(end64)) != kEnd64Signature) fail("the zip64 end record is missing");
  const auto at = static_cast<size_t>(end64);
  return {reader.get<uint64_t>(at + 32), reader.get<uint64_t>(at + 40), reader.get<uint64_t>(at + 48)};
}

// One entry of the central directory.
struct Entry {
  uint64_t packed;
  uint64_t size;
  uint64_t offset;
  std::string_view name;
  size_t record_size;
};

// Replaces the fields that did not fit 32 bits by those of the zip64 extra field, in its fixed order.
void read_zip64_extra(const Reader& directory, uint64_t at, uint64_t size, Entry& entry) {
  uint64_t* const fields[] = {&entry.size, &entry.packed, &entry.offset};
  if (std::none_of(std::begin(fields), std::end(fields), [](const uint64_t* f) { return *f == kInZip64; })) return;
  const Reader extra(directory.slice(at, size));
  for (uint64_t i = 0; i + 4 <= size;) {
    const auto id = extra.get<uint16_t>(static_cast<size_t>(i));
    const auto length = extra.get<uint16_t>(static_cast<size_t>(i) + 2);
    if (id == kZip64Extra) {
      const Reader body(extra.slice(i + 4, length));
      size_t next = 0;
      for (uint64_t* field : fields) {
        if (*field != kInZip64) continue;
        *field = body.get<uint64_t>(next);
        next += 8;
      }
      return;
    }
    i += 4U + length;
  }
  fail("a zip64 field is missing");
}

Entry read_entry(const Reader& directory, size_t at) {
  if (directory.get<uint32_t>(at) != kCentralSignature) fail("a directory entry is malformed");
  const auto flags = directory.get<uint16_t>(at + 8);
  const auto method = directory.get<uint16_t>(at + 10);
  const auto name_size = directory.get<uint16_t>(at + 28);
  const auto extra_size = directory.get<uint16_t>(at + 30);
  const auto comment_size = directory.get<uint16_t>(at + 32);
  Entry entry{};
  entry.packed = directory.get<uint32_t>(at + 20);
  entry.size = directory.get<uint32_t>(at + 24);
  entry.offset = directory.get<uint32_t>(at + 42);
  entry.name = directory.text(at + kCentralSize, name_size);
  entry.record_size = kCentralSize + name_size + extra_size + comment_size;
  const std::string name(entry.name);
  constexpr uint16_t kUtf8Names = 0x0800;
  if ((flags & ~kUtf8Names) != 0) fail("member '" + name + "' uses zip features that artifacts do not have");
  if (method != 0) fail("member '" + name + "' is compressed");
  read_zip64_extra(directory, at + kCentralSize + name_size, extra_size, entry);
  if (entry.packed != entry.size) fail("member '" + name + "' has two sizes");
  return entry;
}

std::span<const uint8_t> member_data(const Reader& reader, const Entry& entry) {
  const std::string name(entry.name);
  (void)reader.slice(entry.offset, kLocalSize);
  const auto at = static_cast<size_t>(entry.offset);
  if (reader.get<uint32_t>(at) != kLocalSignature) fail("the header of member '" + name + "' is malformed");
  const auto name_size = reader.get<uint16_t>(at + 26);
  const auto extra_size = reader.get<uint16_t>(at + 28);
  if (reader.text(at + kLocalSize, name_size) != entry.name)
    fail("the header of member '" + name + "' has another name");
  const uint64_t start = entry.offset + kLocalSize + name_size + extra_size;
  if (start % kAlignment != 0) fail("member '" + name + "' is not aligned");
  return reader.slice(start, entry.size);
}

}  // namespace

ZipReader::ZipReader(std::span<const uint8_t> file, const Parallel& parallel) {
  const size_t end = check_end(file, parallel);
  const Reader reader(file);
  const Directory where = find_directory(reader, end);
  if (where.count > kMaxMembers) fail("it claims to have " + std::to_string(where.count) + " members");
  const Reader directory(reader.slice(where.offset, where.size));
  size_t at = 0;
  for (uint64_t i = 0; i < where.count; ++i) {
    const Entry entry = read_entry(directory, at);
    at += entry.record_size;
    if (find(entry.name) != nullptr) fail("member '" + std::string(entry.name) + "' stands twice");
    members_.push_back({std::string(entry.name), member_data(reader, entry)});
  }
}

const std::span<const uint8_t>* ZipReader::find(std::string_view name) const {
  const auto it = std::find_if(members_.begin(), members_.end(), [name](const Member& m) { return m.name == name; });
  return it == members_.end() ? nullptr : &it->data;
}

std::span<const uint8_t> ZipReader::at(std::string_view name) const {
  const auto* data = find(name);
  if (data == nullptr) fail("member '" + std::string(name) + "' is missing");
  return *data;
}

std::vector<std::string> ZipReader::names() const {
  std::vector<std::string> names;
  for (const Member& member : members_) names.push_back(member.name);
  return names;
}

}  // namespace graphopt
