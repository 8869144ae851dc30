"""Relocatable ELF objects: dropping debug information, and proving that nothing is undefined.

Only what x86-64 LLVM writes is understood: 64-bit little-endian ``ET_REL`` with RELA relocations.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

from graphopt.errors import CompileError

__all__ = ["strip", "undefined_symbols"]

_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_SHDR = struct.Struct("<IIQQQQIIQQ")
_SYM = struct.Struct("<IBBHQQ")
_RELA = struct.Struct("<QQq")
_SYMTAB, _STRTAB, _RELA_TYPE, _NOBITS = 2, 3, 4, 8
_ALLOC = 2
# TVM adds software f16 conversions to every object; ours never call them.
_UNUSED = frozenset({".text.tvm.fp16.conv", ".note.GNU-stack"})


@dataclass(frozen=True)
class _Section:
    name: str
    type: int
    flags: int
    data: bytes
    size: int
    link: int
    info: int
    align: int
    entry: int


@dataclass(frozen=True)
class _Symbol:
    name: str
    info: int
    other: int
    section: int
    value: int
    size: int


def _text(table: bytes, offset: int) -> str:
    return table[offset : table.index(b"\0", offset)].decode()


def _parse(data: bytes) -> tuple[bytes, list[_Section], list[_Symbol]]:
    if data[:4] != b"\x7fELF" or data[4:6] != b"\x02\x01":
        raise CompileError("LLVM did not write a 64-bit ELF object")
    header = _EHDR.unpack_from(data)
    offset, count, names_at = header[6], header[12], header[13]
    raw = [_SHDR.unpack_from(data, offset + k * _SHDR.size) for k in range(count)]
    table = data[raw[names_at][4] : raw[names_at][4] + raw[names_at][5]]
    sections = [
        _Section(
            _text(table, name), type, flags,
            b"" if type == _NOBITS else data[at : at + size], size, link, info, align, entry,
        )
        for name, type, flags, _, at, size, link, info, align, entry in raw
    ]  # fmt: skip
    symbols: list[_Symbol] = []
    for section in sections:
        if section.type == _SYMTAB:
            strings = sections[section.link].data
            for name, info, other, where, value, size in _SYM.iter_unpack(section.data):
                symbols.append(_Symbol(_text(strings, name), info, other, where, value, size))
    return data[: _EHDR.size], sections, symbols


def undefined_symbols(data: bytes) -> list[str]:
    """Names that the object expects somebody else to define, sorted."""
    _, sections, symbols = _parse(data)
    used: set[int] = set()
    for section in sections:
        kept = section.type == _RELA_TYPE and sections[section.info].flags & _ALLOC
        if kept and sections[section.info].name not in _UNUSED:
            used |= {info >> 32 for _, info, _ in _RELA.iter_unpack(section.data)}
    return sorted(s.name for k, s in enumerate(symbols) if s.section == 0 and s.name and k in used)


def strip(data: bytes) -> bytes:
    """The object with code, constants and their symbols alone; the same input, the same output."""
    header, sections, symbols = _parse(data)
    kept = [
        k for k, s in enumerate(sections) if s.flags & _ALLOC and s.size and s.name not in _UNUSED
    ]
    number = {old: new for new, old in enumerate(kept, 1)}
    relocations = [s for s in sections if s.type == _RELA_TYPE and s.info in number and s.data]
    used = {info >> 32 for s in relocations for _, info, _ in _RELA.iter_unpack(s.data)}
    chosen = [
        k
        for k, s in enumerate(symbols)
        if k == 0 or k in used or (s.info >> 4 and s.section in number)
    ]
    # Local symbols come first, as the format demands.
    chosen.sort(key=lambda k: (symbols[k].info >> 4 != 0, k))
    moved = {old: new for new, old in enumerate(chosen)}
    strings, packed = bytearray(b"\0"), bytearray()
    for k in chosen:
        s = symbols[k]
        at = 0
        if s.name:
            at = len(strings)
            strings += s.name.encode() + b"\0"
        where = number.get(s.section, s.section if s.section >= 0xFF00 else 0)
        packed += _SYM.pack(at, s.info, s.other, where, s.value, s.size)
    locals_ = sum(1 for k in chosen if symbols[k].info >> 4 == 0)
    table = len(kept) + len(relocations) + 1
    result = [sections[k] for k in kept]
    for table_ in relocations:
        data_ = b"".join(
            _RELA.pack(at, moved[info >> 32] << 32 | (info & 0xFFFFFFFF), addend)
            for at, info, addend in _RELA.iter_unpack(table_.data)
        )
        result.append(
            replace(table_, data=data_, size=len(data_), link=table, info=number[table_.info])
        )
    result.append(
        _Section(".symtab", _SYMTAB, 0, bytes(packed), len(packed), table + 1, locals_, 8, 24)
    )
    result.append(_Section(".strtab", _STRTAB, 0, bytes(strings), len(strings), 0, 0, 1, 0))
    return _write(header, result)


def _write(header: bytes, sections: list[_Section]) -> bytes:
    names = bytearray(b"\0")
    positions: list[int] = []
    for label in [*(s.name for s in sections), ".shstrtab"]:
        positions.append(len(names))
        names += label.encode() + b"\0"
    sections = [
        *sections,
        _Section(".shstrtab", _STRTAB, 0, bytes(names), len(names), 0, 0, 1, 0),
    ]
    out = bytearray(header)
    rows = [_SHDR.pack(*(0,) * 10)]
    for section, name in zip(sections, positions, strict=True):
        out += b"\0" * (-len(out) % max(section.align, 1))
        rows.append(
            _SHDR.pack(
                name, section.type, section.flags, 0, len(out), section.size, section.link,
                section.info, section.align, section.entry,
            )
        )  # fmt: skip
        out += section.data
    out += b"\0" * (-len(out) % 8)
    fields = list(_EHDR.unpack(header))
    fields[6], fields[12], fields[13] = len(out), len(rows), len(rows) - 1
    out[: _EHDR.size] = _EHDR.pack(*fields)
    for row in rows:
        out += row
    return bytes(out)
