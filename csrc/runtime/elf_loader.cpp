#include "runtime/elf_loader.h"

#include <elf.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <vector>

#include "graphopt/kernel.h"
#include "runtime/buffer.h"

namespace graphopt {
namespace {

// PC-relative operands reach 2 GiB; staying under half of it, none can overflow within the object.
constexpr uint64_t kMaxImage = uint64_t{1} << 30U;
constexpr uint64_t kStubSize = 16;
constexpr uint64_t kGotSlot = 8;

size_t page_size() {
  static const auto size = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return size;
}

// Where a section is mapped: segments have different permissions.
enum Segment : uint8_t { kCode, kConstants, kData, kSegments };

}  // namespace

// Lays out, copies and relocates one object.
class ObjectLinker {
 public:
  ObjectLinker(std::span<const uint8_t> bytes, const std::string& name, LoadedObject& out)
      : bytes_(bytes), name_(name), out_(out) {}

  void link() {
    read_sections();
    read_symbols();
    lay_out();
    map_image();
    copy_sections();
    resolve_symbols();
    relocate();
    protect();
  }

 private:
  struct Symbol {
    std::string_view name;
    uint64_t address = 0;
    bool defined = false;   // it has an address that instructions can reach
    bool external = false;  // a library function, reached through a stub or the GOT
    bool weak = false;
  };

  [[noreturn]] void fail(const std::string& what) const { throw Error("cannot load object '" + name_ + "': " + what); }

  [[nodiscard]] std::span<const uint8_t> slice(uint64_t offset, uint64_t size, const char* what) const {
    if (offset > bytes_.size() || size > bytes_.size() - offset) {
      fail(std::string(what) + " reaches past the end of the object");
    }
    return bytes_.subspan(static_cast<size_t>(offset), static_cast<size_t>(size));
  }

  // A table of fixed-size records, copied since it need not be aligned.
  template <class T>
  [[nodiscard]] std::vector<T> table(uint64_t offset, uint64_t size, const char* what) const {
    const auto raw = slice(offset, size, what);
    std::vector<T> records(raw.size() / sizeof(T));
    if (!records.empty()) std::memcpy(records.data(), raw.data(), records.size() * sizeof(T));
    return records;
  }

  void read_sections() {
    if (bytes_.size() < sizeof(Elf64_Ehdr)) fail("not an ELF object");
    Elf64_Ehdr header;
    std::memcpy(&header, bytes_.data(), sizeof header);
    if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) fail("not an ELF object");
    if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_ident[EI_DATA] != ELFDATA2LSB || header.e_type != ET_REL ||
        header.e_machine != EM_X86_64) {
      fail("not a relocatable x86-64 object");
    }
    if (header.e_shentsize != sizeof(Elf64_Shdr) || header.e_shnum == 0) fail("it has no section table");
    sections_ = table<Elf64_Shdr>(header.e_shoff, uint64_t{header.e_shnum} * sizeof(Elf64_Shdr), "the section table");
    for (const Elf64_Shdr& section : sections_) check_section(section);
  }

  void check_section(const Elf64_Shdr& section) const {
    if (section.sh_type == SHT_REL) fail("relocations without addends are not supported");
    if (!is_loaded(section)) return;
    if (section.sh_type != SHT_PROGBITS && section.sh_type != SHT_NOBITS && section.sh_type != SHT_X86_64_UNWIND) {
      fail("section type " + std::to_string(section.sh_type) + " is not supported");
    }
    if ((section.sh_flags & SHF_TLS) != 0) fail("thread-local data is not supported");
    if ((section.sh_flags & SHF_EXECINSTR) != 0 && (section.sh_flags & SHF_WRITE) != 0) {
      fail("a section is writable and executable");
    }
    if ((section.sh_flags & SHF_EXECINSTR) != 0 && section.sh_type == SHT_NOBITS) fail("code without bytes");
    const uint64_t alignment = section.sh_addralign;
    if (alignment > 1 && ((alignment & (alignment - 1)) != 0 || alignment > page_size())) {
      fail("a section's alignment is not a power of two up to a page");
    }
    if (section.sh_size > kMaxImage) fail("a section is too large");
    if (section.sh_type != SHT_NOBITS) (void)slice(section.sh_offset, section.sh_size, "a section");
  }

  void read_symbols() {
    for (const Elf64_Shdr& section : sections_) {
      if (section.sh_type != SHT_SYMTAB) continue;
      if (!raw_symbols_.empty()) fail("it has two symbol tables");
      if (section.sh_link >= sections_.size()) fail("the symbol table has no names");
      raw_symbols_ = table<Elf64_Sym>(section.sh_offset, section.sh_size, "the symbol table");
      const Elf64_Shdr& names = sections_[section.sh_link];
      if (names.sh_type != SHT_STRTAB) fail("the symbol table has no names");
      const auto raw = slice(names.sh_offset, names.sh_size, "the symbol names");
      names_ = {reinterpret_cast<const char*>(raw.data()), raw.size()};
      symbol_table_ = static_cast<size_t>(&section - sections_.data());
    }
    symbols_.resize(raw_symbols_.size());
  }

  [[nodiscard]] std::string_view symbol_name(const Elf64_Sym& symbol) const {
    if (symbol.st_name >= names_.size()) fail("a symbol's name lies outside the name table");
    const std::string_view rest = names_.substr(symbol.st_name);
    const size_t end = rest.find('\0');
    if (end == std::string_view::npos) fail("a symbol's name does not end");
    return rest.substr(0, end);
  }

  // Notes are marked as loaded, but only a linker reads them.
  static bool is_loaded(const Elf64_Shdr& section) {
    return (section.sh_flags & SHF_ALLOC) != 0 && section.sh_type != SHT_NOTE;
  }

  static Segment segment_of(const Elf64_Shdr& section) {
    if ((section.sh_flags & SHF_EXECINSTR) != 0) return kCode;
    return (section.sh_flags & SHF_WRITE) != 0 ? kData : kConstants;
  }

  // code | stubs || constants | GOT || data, each group on pages of its own.
  void lay_out() {
    constexpr uint64_t kUnplaced = std::numeric_limits<uint64_t>::max();
    place_.assign(sections_.size(), kUnplaced);
    uint64_t at = 0;
    for (const Segment segment : {kCode, kConstants, kData}) {
      segment_begin_[segment] = at;
      for (size_t i = 0; i < sections_.size(); ++i) {
        const Elf64_Shdr& section = sections_[i];
        if (!is_loaded(section) || segment_of(section) != segment) continue;
        at = align_up(at, std::max<uint64_t>(section.sh_addralign, 1));
        place_[i] = at;
        at += section.sh_size;
        if (at > kMaxImage) fail("it is too large");
      }
      at = align_up(at, kStubSize);
      if (segment == kCode) stubs_ = at, at += symbols_.size() * kStubSize;
      if (segment == kConstants) got_ = at, at += symbols_.size() * kGotSlot;
      at = align_up(at, page_size());
    }
    segment_begin_[kSegments] = at;
    if (at > kMaxImage) fail("it is too large");
  }

  [[nodiscard]] bool placed(size_t section) const {
    return section < place_.size() && place_[section] != std::numeric_limits<uint64_t>::max();
  }

  void map_image() {
    const auto size = static_cast<size_t>(segment_begin_[kSegments]);
    void* base = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) fail("out of memory");
    out_.base_ = static_cast<uint8_t*>(base);
    out_.size_ = size;
  }

  void copy_sections() {
    for (size_t i = 0; i < sections_.size(); ++i) {
      const Elf64_Shdr& section = sections_[i];
      if (!placed(i) || section.sh_type == SHT_NOBITS || section.sh_size == 0) continue;
      std::memcpy(out_.base_ + place_[i], bytes_.data() + section.sh_offset, static_cast<size_t>(section.sh_size));
    }
  }

  void resolve_symbols() {
    for (size_t i = 1; i < raw_symbols_.size(); ++i) resolve_symbol(i);
  }

  void resolve_symbol(size_t index) {
    const Elf64_Sym& raw = raw_symbols_[index];
    Symbol& symbol = symbols_[index];
    symbol.name = symbol_name(raw);
    symbol.weak = ELF64_ST_BIND(raw.st_info) == STB_WEAK;
    const auto type = ELF64_ST_TYPE(raw.st_info);
    if (type == STT_TLS || type == STT_GNU_IFUNC)
      fail("symbol '" + std::string(symbol.name) + "' has an unsupported type");
    if (raw.st_shndx == SHN_UNDEF) {
      symbol.address = reinterpret_cast<uint64_t>(external_symbol(symbol.name));
      symbol.external = symbol.address != 0;
      if (!symbol.external && !symbol.weak) fail("unknown symbol '" + std::string(symbol.name) + "'");
      symbol.defined = symbol.external;
    } else if (raw.st_shndx < SHN_LORESERVE) {
      if (raw.st_shndx >= sections_.size()) fail("a symbol lies in no section");
      if (!placed(raw.st_shndx)) return;  // debug information and notes
      if (raw.st_value > sections_[raw.st_shndx].sh_size) fail("a symbol lies outside its section");
      symbol.address = reinterpret_cast<uint64_t>(out_.base_) + place_[raw.st_shndx] + raw.st_value;
      symbol.defined = true;
      const bool code = (sections_[raw.st_shndx].sh_flags & SHF_EXECINSTR) != 0;
      if (code && type == STT_FUNC && ELF64_ST_BIND(raw.st_info) != STB_LOCAL) {
        const bool first = out_.functions_.emplace(symbol.name, reinterpret_cast<void*>(symbol.address)).second;
        if (!first) fail("function '" + std::string(symbol.name) + "' is defined twice");
      }
    } else if (raw.st_shndx != SHN_ABS) {
      fail("symbol '" + std::string(symbol.name) + "' has no storage");
    }
  }

  void relocate() {
    for (const Elf64_Shdr& section : sections_) {
      if (section.sh_type != SHT_RELA) continue;
      if (section.sh_info >= sections_.size()) fail("relocations for a section that does not exist");
      if (!placed(section.sh_info)) continue;
      if (section.sh_link != symbol_table_ || section.sh_entsize != sizeof(Elf64_Rela)) fail("malformed relocations");
      for (const Elf64_Rela& r : table<Elf64_Rela>(section.sh_offset, section.sh_size, "a relocation table")) {
        apply(section.sh_info, r);
      }
    }
  }

  void apply(size_t section, const Elf64_Rela& r) {
    const uint64_t type = ELF64_R_TYPE(r.r_info);
    if (type == R_X86_64_NONE) return;
    const uint64_t index = ELF64_R_SYM(r.r_info);
    if (index == 0 || index >= symbols_.size()) fail("a relocation without a symbol");
    const Symbol& symbol = symbols_[index];
    const uint64_t width = type == R_X86_64_64 || type == R_X86_64_PC64 ? 8 : 4;
    const Elf64_Shdr& target = sections_[section];
    if (target.sh_type == SHT_NOBITS || r.r_offset > target.sh_size || width > target.sh_size - r.r_offset) {
      fail("a relocation lies outside its section");
    }
    uint8_t* const place = out_.base_ + place_[section] + r.r_offset;
    const auto here = reinterpret_cast<uint64_t>(place);
    const auto addend = static_cast<uint64_t>(r.r_addend);
    switch (type) {
      case R_X86_64_64:
        write(place, require(symbol) + addend);
        return;
      case R_X86_64_PC64:
        write(place, require(symbol) + addend - here);
        return;
      case R_X86_64_PC32:
      case R_X86_64_PLT32:
        write32(place, (symbol.external ? stub(index) : require(symbol)) + addend - here);
        return;
      case R_X86_64_GOTPCREL:
      case R_X86_64_GOTPCRELX:
      case R_X86_64_REX_GOTPCRELX:
        write32(place, got_slot(index) + addend - here);
        return;
      case R_X86_64_32:
      case R_X86_64_32S:
        fail("it is not position-independent");
      default:
        fail("relocation type " + std::to_string(type) + " is not supported");
    }
  }

  [[nodiscard]] uint64_t require(const Symbol& symbol) const {
    if (!symbol.defined && !symbol.weak)
      fail("a relocation refers to '" + std::string(symbol.name) + "', which has no address");
    return symbol.address;
  }

  static void write(uint8_t* place, uint64_t value) { std::memcpy(place, &value, sizeof value); }

  void write32(uint8_t* place, uint64_t value) const {
    const auto wide = static_cast<int64_t>(value);
    const auto narrow = static_cast<int32_t>(wide);
    if (narrow != wide) fail("a relocation overflows");
    std::memcpy(place, &narrow, sizeof narrow);
  }

  // A jump to a function that may lie further away than a call reaches: jmp *[rip + 0]; address.
  uint64_t stub(uint64_t index) {
    uint8_t* const at = out_.base_ + stubs_ + index * kStubSize;
    constexpr std::array<uint8_t, 6> kJump = {0xff, 0x25, 0, 0, 0, 0};
    std::memcpy(at, kJump.data(), kJump.size());
    write(at + kJump.size(), symbols_[index].address);
    return reinterpret_cast<uint64_t>(at);
  }

  uint64_t got_slot(uint64_t index) {
    uint8_t* const at = out_.base_ + got_ + index * kGotSlot;
    write(at, require(symbols_[index]));
    return reinterpret_cast<uint64_t>(at);
  }

  void protect() {
    constexpr int kPermissions[kSegments] = {PROT_READ | PROT_EXEC, PROT_READ, PROT_READ | PROT_WRITE};
    for (const Segment segment : {kCode, kConstants, kData}) {
      const auto size = static_cast<size_t>(segment_begin_[segment + 1] - segment_begin_[segment]);
      if (size == 0) continue;
      if (mprotect(out_.base_ + segment_begin_[segment], size, kPermissions[segment]) != 0) {
        fail("the system does not let this process map code as executable");
      }
    }
  }

  std::span<const uint8_t> bytes_;
  const std::string& name_;
  LoadedObject& out_;
  std::vector<Elf64_Shdr> sections_;
  std::vector<Elf64_Sym> raw_symbols_;
  std::vector<Symbol> symbols_;
  std::string_view names_;
  size_t symbol_table_ = 0;
  std::vector<uint64_t> place_;  // offset of each section in the image
  std::array<uint64_t, kSegments + 1> segment_begin_{};
  uint64_t stubs_ = 0;
  uint64_t got_ = 0;
};

LoadedObject::LoadedObject(std::span<const uint8_t> object, const std::string& name) {
  try {
    ObjectLinker(object, name, *this).link();
  } catch (...) {
    if (base_ != nullptr) munmap(base_, size_);
    throw;
  }
}

LoadedObject::~LoadedObject() {
  if (base_ != nullptr) munmap(base_, size_);
}

void* LoadedObject::function(std::string_view name) const {
  const auto it = functions_.find(name);
  return it == functions_.end() ? nullptr : it->second;
}

}  // namespace graphopt
