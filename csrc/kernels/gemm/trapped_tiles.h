// The instructions of AMX on a processor without them: it raises SIGILL, and the handler does what a TileMachine
// does. So the very code that runs on AMX runs in tests, but for its speed.
#pragma once

#include <signal.h>
#include <ucontext.h>

#include <array>
#include <cstdlib>
#include <cstring>

#include "kernels/gemm/emulated_tiles.h"

namespace graphopt::test {

// One instruction as it is encoded: VEX with three bytes, map 0F38 (Software Developer's Manual, volume 2, 2.3).
class TileInstruction {
 public:
  // Whether the bytes at `code` are an instruction of AMX.
  explicit TileInstruction(const uint8_t* code) : code_(code) {
    if (code[0] != 0xc4 || (code[1] & 0x1fU) != 2 || (code[2] & 0x84U) != 0) return;
    prefix_ = code[2] & 3U;
    operand_ = static_cast<int>(~(unsigned{code[2]} >> 3U) & 15U);
    modrm_ = code[4];
    known_ = code[3] == 0x49 || code[3] == 0x4b || code[3] == 0x5c || code[3] == 0x5e;
  }
  [[nodiscard]] bool known() const { return known_; }

  // Does it with the registers of `context`; returns its length in bytes.
  int run(const gregset_t& registers, TileMachine& machine) const {
    const int reg = static_cast<int>((unsigned{modrm_} >> 3U) & 7U);
    const int rm = static_cast<int>(modrm_ & 7U);
    const bool memory = modrm_ < 0xc0;
    if (code_[3] == 0x49) return memory ? configure(registers, machine) : without_memory(reg, machine);
    if (code_[3] == 0x4b) return move(registers, reg, machine);
    if (code_[3] == 0x5c && prefix_ == 2) {
      machine.dot_bf16(reg, rm, operand_);
    } else if (code_[3] == 0x5e && prefix_ == 1) {
      machine.dot_bytes<uint8_t>(reg, rm, operand_);
    } else if (code_[3] == 0x5e && prefix_ == 3) {
      machine.dot_bytes<int8_t>(reg, rm, operand_);
    } else {
      throw TileFault("a product that no kernel uses");
    }
    return 5;
  }

 private:
  // A general register by its number, bit 3 of which a bit of the prefix holds, inverted.
  [[nodiscard]] int64_t general(const gregset_t& registers, unsigned low, unsigned prefix_bit) const {
    constexpr std::array<int, 16> kPlaces = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                             REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
    const unsigned high = (unsigned{code_[1]} >> prefix_bit & 1U) ^ 1U;
    return registers[kPlaces[low | high << 3U]];
  }

  // The address of a memory operand, the value of its index (0: none) and the length of the instruction.
  struct Memory {
    int64_t base = 0;
    int64_t index = 0;
    int length = 0;
  };
  [[nodiscard]] Memory memory(const gregset_t& registers) const {
    const unsigned mode = unsigned{modrm_} >> 6U;
    Memory found;
    int at = 5;
    unsigned base = modrm_ & 7U;
    if (base == 4) {  // a SIB byte
      const unsigned sib = code_[at++];
      base = sib & 7U;
      const unsigned index = sib >> 3U & 7U;
      const bool none = index == 4 && (code_[1] & 0x40U) != 0;
      if (!none) found.index = general(registers, index, 6) << (sib >> 6U);
    }
    if (base == 5 && mode == 0) throw TileFault("an address form that no kernel uses");
    found.base = general(registers, base, 5);
    if (mode == 1) {
      found.base += static_cast<int8_t>(code_[at]);
      at += 1;
    } else if (mode == 2) {
      int32_t far = 0;
      std::memcpy(&far, code_ + at, sizeof far);
      found.base += far;
      at += 4;
    }
    found.length = at;
    return found;
  }

  int configure(const gregset_t& registers, TileMachine& machine) const {
    if (prefix_ != 0 || (modrm_ & 0x38U) != 0) throw TileFault("STTILECFG, which no kernel uses");
    const Memory from = memory(registers);
    TileConfig config;
    std::memcpy(&config, reinterpret_cast<const void*>(from.base + from.index), sizeof config);
    machine.configure(config);
    return from.length;
  }

  int without_memory(int reg, TileMachine& machine) const {
    if (prefix_ == 3) {
      machine.zero(reg);
    } else if (prefix_ == 0 && modrm_ == 0xc0) {
      machine.release();
    } else {
      throw TileFault("an instruction that no kernel uses");
    }
    return 5;
  }

  int move(const gregset_t& registers, int tile, TileMachine& machine) const {
    const Memory where = memory(registers);
    auto* p = reinterpret_cast<void*>(where.base);
    if (prefix_ == 3) {
      machine.load(tile, p, where.index);
    } else if (prefix_ == 2) {
      machine.store(tile, p, where.index);
    } else {
      throw TileFault("TILELOADDT1, which no kernel uses");
    }
    return where.length;
  }

  const uint8_t* code_;
  unsigned prefix_ = 0;
  int operand_ = 0;
  uint8_t modrm_ = 0;
  bool known_ = false;
};

inline void on_illegal_instruction(int /*signal*/, siginfo_t* /*info*/, void* context) {
  gregset_t& registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  const TileInstruction instruction(reinterpret_cast<const uint8_t*>(registers[REG_RIP]));
  if (!instruction.known()) std::abort();
  registers[REG_RIP] += instruction.run(registers, tile_machine());
}

// From now on, in every thread.
inline void trap_tile_instructions() {
  struct sigaction action{};
  action.sa_sigaction = on_illegal_instruction;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  sigaction(SIGILL, &action, nullptr);
}

}  // namespace graphopt::test
