"""Pages of a Parquet column chunk: their headers, and values of fixed width or codes out of them.

The format is that of Apache Parquet (parquet.thrift and Encodings.md of its specification), headers in
Thrift's compact protocol, compressed pages in Snappy's (format_description.txt). What is read is what a flat
column of numbers without nulls or a column of dictionary codes consists of: plain and dictionary-coded pages
of both versions. To anything else, and to whatever does not add up, a kernel answers no, and the chunk is
left to Arrow. Nothing outside the arrays passed is read or written, whatever the bytes say.

Bytes are read eight at a time wherever they lie. Places are unsigned, because Numba tests a signed index for
counting from the end: unpacking takes 0.5 instead of 0.9 ns a value, looking up as long again. A number that
is passed to another kernel begins as ZERO, because Numba compiles that kernel twice for a literal 0.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamlr.kernels.jit import COMPILED, Intrinsic, kernel

Bytes = NDArray[np.uint8]
Table = NDArray[np.int64]  # (pages, FIELDS)

# Columns of the table of pages; what a header does not tell is ABSENT.
(
    KIND, SIZE, STORED, CHECKSUM, VALUES, ENCODING, LEVEL_ENCODING, NULLS, LEVELS, REPETITION, PACKED, BODY,
) = range(12)  # fmt: skip
FIELDS = 12
ABSENT = -(1 << 40)  # which no number of a header can be

DATA_PAGE, _, DICTIONARY_PAGE, DATA_PAGE_V2 = range(4)
PLAIN, PLAIN_DICTIONARY, RLE, RLE_DICTIONARY = 0, 2, 3, 8
# Where the numbers of a header go: by the structure that they are in (0 the header itself, else the number of
# its field: 5 of a data page, 7 of a dictionary, 8 of a data page of version 2), and by their own number.
PLACES = np.full((9, 9), -1)
PLACES[0, 1:5] = KIND, SIZE, STORED, CHECKSUM
PLACES[5, 1:4] = VALUES, ENCODING, LEVEL_ENCODING
PLACES[7, 1:3] = VALUES, ENCODING
PLACES[8, [1, 2, 4, 5, 6, 7]] = VALUES, NULLS, ENCODING, LEVELS, REPETITION, PACKED
# Types of the compact protocol.
TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, STRUCT = 1, 2, 3, 4, 5, 6, 7, 8, 12

# What becomes of codes: they are kept, or looked up among values of four or of eight bytes.
CODES, FOUR_BYTES, EIGHT_BYTES = 0, 4, 8
ZERO: Any = np.int64(0)
STRIP = 1024  # codes that are unpacked before they are looked up, so that they stay in the first-level cache
ROOM = 40  # bytes before the end that a literal and a copy of up to 16 bytes can be read from and written to
DEEPEST = 8  # structures inside each other that a header may have
WIDEST = 31  # bits of a code
LAST_WORD = (1 << 64) - 1  # that eight bytes can be
LARGEST = (1 << 31) - 1  # number of values or bytes that a header may tell


def _word_at(size: int) -> Any:
    """A function of bytes and a place: the `size` bytes there as an integer, the lowest first."""
    if not COMPILED:

        def read(data: Any, at: Any) -> int:
            return int.from_bytes(data[int(at) : int(at) + size].tobytes(), "little", signed=size == 8)

        return read

    def word(typing_context, data, at):
        from llvmlite import ir
        from numba import types

        def generate(context, builder, signature, arguments):
            array = context.make_array(signature.args[0])(context, builder, value=arguments[0])
            kind = ir.IntType(8 * size).as_pointer()
            read = builder.load(builder.bitcast(builder.gep(array.data, [arguments[1]]), kind), align=1)
            return read if size == 8 else builder.zext(read, ir.IntType(64))

        return types.int64(data, types.uint64), generate

    return Intrinsic(word)


def _put_word() -> Any:
    """A function of bytes, a place and an integer, which becomes the eight bytes there."""
    if not COMPILED:

        def put(data: Any, at: Any, value: int) -> None:
            word = (int(value) & LAST_WORD).to_bytes(8, "little")
            data[int(at) : int(at) + 8] = np.frombuffer(word, np.uint8)

        return put

    def put_word(typing_context, data, at, value):
        from llvmlite import ir
        from numba import types

        def generate(context, builder, signature, arguments):
            array = context.make_array(signature.args[0])(context, builder, value=arguments[0])
            place = builder.bitcast(builder.gep(array.data, [arguments[1]]), ir.IntType(64).as_pointer())
            builder.store(arguments[2], place, align=1)
            return context.get_dummy_value()

        return types.void(data, types.uint64, types.int64), generate

    return Intrinsic(put_word)


class Sink(NamedTuple):
    """Where the values of a chunk of n rows go, and its dictionary; of other widths arrays are empty."""

    become: int  # CODES, FOUR_BYTES or EIGHT_BYTES
    bytes: NDArray[np.uint8]  # the memory of the values or codes
    out4: NDArray[np.uint32]  # (n,) the same, for codes and values of four bytes
    out8: NDArray[np.uint64]  # (n,) the same, for values of eight bytes
    values4: NDArray[np.uint32]  # the memory of the dictionary, for values of four bytes
    values8: NDArray[np.uint64]  # the same, for values of eight bytes


word_at: Any = _word_at(8)
half_at: Any = _word_at(4)
put_word: Any = _put_word()


@kernel
def read_number(data, at, count):
    """The integer in `count` bytes from a place on, the lowest first"""
    value = ZERO
    for k in range(count):
        value |= np.int64(data[np.uint64(at + k)]) << (8 * k)
    return value


@kernel
def read_varint(data, at):
    """An integer of seven bits a byte, the lowest first, and the place behind it; data.size + 1: cut short"""
    value = ZERO
    for shift in range(0, 63, 7):
        if at >= data.size:
            break
        byte = np.int64(data[np.uint64(at)])
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    return 0, data.size + 1


@kernel
def read_header(data, at, page):
    """page[field] = what the header at a place says; the place behind it, data.size + 1 if there is none"""
    page[:] = ABSENT
    none = data.size + 1
    depth = 0  # of the structure that we are in
    outer = 0  # number of the page's field that it is, or is inside of
    field = ZERO
    while at < data.size:
        byte = np.int64(data[np.uint64(at)])
        at += 1
        if byte == 0:  # end of a structure
            if depth == 0:
                return at
            depth -= 1
            if depth == 0:
                field = outer
            continue
        kind = byte & 15
        delta = byte >> 4
        number = field + delta
        if delta == 0:
            number, at = read_varint(data, at)
            number >>= 1
        if depth < 2:
            field = number
        value = ZERO
        if kind in (TRUE, FALSE):
            value = np.int64(kind == TRUE)
        elif kind == BYTE:
            at += 1
        elif kind in (I16, I32, I64):
            value, at = read_varint(data, at)
            value = (value >> 1) ^ -(value & 1)
        elif kind == DOUBLE:
            at += 8
        elif kind == BINARY:
            value, at = read_varint(data, at)
            if value > data.size - at:
                return none
            at += value
        elif kind == STRUCT:
            if depth == DEEPEST:
                return none
            if depth == 0:
                outer = field
            depth += 1
            if depth == 1:
                field = 0
        else:
            return none
        inside = 0 if depth == 0 else outer
        if kind != STRUCT and depth < 2 and inside < PLACES.shape[0] and field < PLACES.shape[1]:
            place = PLACES[np.uint64(inside), np.uint64(field)]
            if place >= 0:
                page[place] = value
    return none


@kernel
def walk_pages(data: Bytes, rows: int, pages: Table) -> tuple[int, int]:
    """pages[i, field] = headers of a chunk of `rows` values; their number, or -1 where one is not understood,
    and the size of the largest page out of compression

    A dictionary stands before all values if there is one. Checksums are Arrow's to compare.
    """
    at = ZERO
    filled = 0
    count = 0
    largest = 0
    while filled < rows:
        if count == pages.shape[0]:
            return -1, 0
        page = pages[count]
        at = read_header(data, at, page)
        if at > data.size or page[CHECKSUM] != ABSENT:
            return -1, 0
        if not (0 <= page[VALUES] <= LARGEST and 0 <= page[SIZE] <= LARGEST):
            return -1, 0
        if page[STORED] < 0 or page[STORED] > data.size - at:
            return -1, 0
        if page[KIND] == DICTIONARY_PAGE:
            if count > 0 or (page[ENCODING] != PLAIN and page[ENCODING] != PLAIN_DICTIONARY):
                return -1, 0
        elif page[KIND] == DATA_PAGE:
            if page[LEVEL_ENCODING] != RLE:
                return -1, 0
            filled += page[VALUES]
        elif page[KIND] == DATA_PAGE_V2:
            if page[NULLS] != 0 or page[REPETITION] != 0 or page[LEVELS] < 0:
                return -1, 0
            if page[LEVELS] > page[STORED] or page[LEVELS] > page[SIZE]:
                return -1, 0
            filled += page[VALUES]
        else:
            return -1, 0
        page[BODY] = at
        largest = max(largest, page[SIZE])
        at += page[STORED]
        count += 1
    return (count if filled == rows else -1), largest


@kernel
def copy_bytes(source, begin, target, at, count):
    """target[at : at + count] = source[begin : begin + count], eight at a time"""
    i = 0
    while i + 8 <= count:
        put_word(target, np.uint64(at + i), word_at(source, np.uint64(begin + i)))
        i += 8
    while i < count:
        target[np.uint64(at + i)] = source[np.uint64(begin + i)]
        i += 1


@kernel
def repeat_bytes(target, at, offset, length):
    """target[at + i] = target[at + i - offset] for i below `length`, in turn"""
    origin = at - offset
    alone = ZERO
    if offset < 8:
        period = offset * ((8 + offset - 1) // offset)  # eight bytes or more after which all comes again
        alone = min(length, period - offset)
        for k in range(alone):
            target[np.uint64(at + k)] = target[np.uint64(origin + k)]
    copy_bytes(target, origin, target, at + alone, length - alone)


@kernel
def decompress(source, begin, end, target, size):
    """target[:size] = the bytes that source[begin:end] stands for; whether it stands for `size` bytes

    Numbers compress to literals of some bytes, each followed by a copy of some. Both are written as 16 bytes
    where there is room for them, since what is too much is written over by what follows, and how a copy is
    told is selected, not branched on: doubles that were floats take 8 ns, and pyarrow 14, with the reading.
    """
    stated, at = read_varint(source[:end], begin)
    if at > end or stated != size:
        return False
    filled = ZERO
    while at < end:
        if at + ROOM <= end and filled + ROOM <= size:
            word = word_at(source, np.uint64(at))
            tag = word & 255
            if tag & 3 == 0 and tag < 64:
                length = (tag >> 2) + 1
                if length <= 4:  # the copy's tag and offset are in the same word
                    put_word(target, np.uint64(filled), word >> 8)
                    word >>= 8 * length + 8
                else:
                    put_word(target, np.uint64(filled), word_at(source, np.uint64(at + 1)))
                    put_word(target, np.uint64(filled + 8), word_at(source, np.uint64(at + 9)))
                    word = word_at(source, np.uint64(at + length + 1))
                at += length + 1
                filled += length
                tag = word & 255
            short = tag & 3 == 1
            length = ((tag >> 2) & 7) + 4 if short else (tag >> 2) + 1
            offset = ((tag >> 5) << 8 | (word >> 8) & 255) if short else (word >> 8) & 0xFFFF
            if (short or tag & 3 == 2) and length <= 16 and 8 <= offset <= filled:
                origin = filled - offset
                if 4 <= length <= 8:
                    low = half_at(target, np.uint64(origin))
                    high = half_at(target, np.uint64(origin + length - 4))
                    put_word(target, np.uint64(filled), low | high << (8 * length - 32))
                else:
                    put_word(target, np.uint64(filled), word_at(target, np.uint64(origin)))
                    put_word(target, np.uint64(filled + 8), word_at(target, np.uint64(origin + 8)))
                at += 2 if short else 3
                filled += length
                continue
        tag = np.int64(source[np.uint64(at)])
        at += 1
        if tag & 3 == 0:
            length = (tag >> 2) + 1
            if length > 60:
                extra = length - 60
                if at + extra > end:
                    return False
                length = read_number(source, at, extra) + 1
                at += extra
            if length > end - at or length > size - filled:
                return False
            copy_bytes(source, at, target, filled, length)
            at += length
            filled += length
            continue
        if tag & 3 == 1:
            if at + 1 > end:
                return False
            length = ((tag >> 2) & 7) + 4
            offset = ((tag >> 5) << 8) | np.int64(source[np.uint64(at)])
            at += 1
        else:
            told = 2 if tag & 3 == 2 else 4
            if at + told > end:
                return False
            length = (tag >> 2) + 1
            offset = read_number(source, at, told)
            at += told
        if offset == 0 or offset > filled or length > size - filled:
            return False
        repeat_bytes(target, filled, offset, length)
        filled += length
    return filled == size


@kernel
def levels_are_full(body, begin, end, count):
    """Whether body[begin:end] says of `count` rows that each has a value, in runs that are not bit-packed

    Bit-packed ones are how rows without a value are told of.
    """
    at = begin
    told = 0
    while told < count:
        header, at = read_varint(body[:end], at)
        if at >= end or header & 1 == 1 or header == 0 or body[np.uint64(at)] != 1:
            return False
        at += 1
        told += header >> 1
    return True


@kernel
def unpack(body, at, end, count, width, codes):
    """codes[i] = the i-th integer of `width` bits, the lowest first, of body[at:end], from which none is read

    Eight integers take `width` bytes, so that what each is shifted by is known before the loop.
    """
    mask = (1 << width) - 1
    safe = min(count >> 3, max(0, (end - at - 8 - ((7 * width) >> 3)) // max(width, 1) + 1))
    begin1, shift1 = (1 * width) >> 3, (1 * width) & 7
    begin2, shift2 = (2 * width) >> 3, (2 * width) & 7
    begin3, shift3 = (3 * width) >> 3, (3 * width) & 7
    begin4, shift4 = (4 * width) >> 3, (4 * width) & 7
    begin5, shift5 = (5 * width) >> 3, (5 * width) & 7
    begin6, shift6 = (6 * width) >> 3, (6 * width) & 7
    begin7, shift7 = (7 * width) >> 3, (7 * width) & 7
    for group in range(safe):
        first = at + group * width
        to = np.uint64(8 * group)
        codes[to] = word_at(body, np.uint64(first)) & mask
        codes[to + np.uint64(1)] = (word_at(body, np.uint64(first + begin1)) >> shift1) & mask
        codes[to + np.uint64(2)] = (word_at(body, np.uint64(first + begin2)) >> shift2) & mask
        codes[to + np.uint64(3)] = (word_at(body, np.uint64(first + begin3)) >> shift3) & mask
        codes[to + np.uint64(4)] = (word_at(body, np.uint64(first + begin4)) >> shift4) & mask
        codes[to + np.uint64(5)] = (word_at(body, np.uint64(first + begin5)) >> shift5) & mask
        codes[to + np.uint64(6)] = (word_at(body, np.uint64(first + begin6)) >> shift6) & mask
        codes[to + np.uint64(7)] = (word_at(body, np.uint64(first + begin7)) >> shift7) & mask
    for i in range(8 * safe, count):
        bit = i * width
        place = at + (bit >> 3)
        value = read_number(body, place, min(5, max(end - place, 0)))
        codes[np.uint64(i)] = (value >> (bit & 7)) & mask


@kernel
def look_up(codes, count, size, column, first):
    """column[first + i] = codes[i], or what the dictionary has for it; whether all codes are below `size`"""
    worst = np.int32(0)
    for i in range(count):
        worst = max(worst, codes[i])
    if worst >= size:
        return False
    if column.become == FOUR_BYTES:
        out4 = column.out4
        values4 = column.values4
        for i in range(count):
            out4[np.uint64(first + i)] = values4[np.uint64(codes[i])]
    elif column.become == EIGHT_BYTES:
        out8 = column.out8
        values8 = column.values8
        for i in range(count):
            out8[np.uint64(first + i)] = values8[np.uint64(codes[i])]
    else:
        out4 = column.out4
        for i in range(count):
            out4[np.uint64(first + i)] = codes[i]
    return True


@kernel
def fill_coded(body, begin, end, count, size, column, first, strip):
    """`count` values from column[first] on: body[begin:end] is a width in bits, and runs of codes, bit-packed
    or of one code repeated; whether that is so

    Codes of a column of few values come in runs of eight to some hundred, so those of many runs are looked up
    together.
    """
    if count == 0:
        return True
    if begin >= end or body[np.uint64(begin)] > WIDEST:
        return False
    width = np.int64(body[np.uint64(begin)])
    at = begin + 1
    filled = ZERO
    held = ZERO  # codes in the strip
    while filled + held < count:
        header, at = read_varint(body[:end], at)
        if at > end or header < 2 or header > 1 << 40:
            return False
        packed = header & 1 == 1
        run = header >> 1
        stored = run * width if packed else (width + 7) >> 3
        if stored > end - at:
            return False
        code = ZERO
        if packed:
            run *= 8
        else:
            code = read_number(body, at, stored)
            if code >= size:
                return False
        run = min(run, count - filled - held)
        done = 0
        while done < run:
            if held > STRIP - 8:
                if not look_up(strip, held, size, column, first + filled):
                    return False
                filled += held
                held = 0
            if packed:
                some = min(run - done, (STRIP - held) & -8)
                unpack(body, at + (done >> 3) * width, end, some, width, strip[held:])
            else:
                some = min(run - done, STRIP - held)
                for i in range(some):
                    strip[np.uint64(held + i)] = code
            held += some
            done += some
        at += stored
    return look_up(strip, held, size, column, first + filled)


@kernel
def fill_column(
    data: Bytes,
    pages: Table,
    total: int,
    snappy: bool,
    optional: bool,
    scratch: Bytes,
    dictionary: Bytes,
    column: Sink,
    strip: NDArray[np.int32],
) -> bool:
    """column[i] = the i-th value of a chunk, or its code; whether that could be told

    data: the chunk, uint8.  pages: `total` headers, from `walk_pages`.  snappy: whether they are compressed.
    optional: whether levels stand before values.  scratch, dictionary: uint8, room for a page and for the
    dictionary out of compression.  strip: (STRIP,) int32.
    """
    width = 8 if column.become == EIGHT_BYTES else 4
    rows = column.bytes.size // width
    size = ZERO
    first = ZERO
    for p in range(total):
        page = pages[p]
        count = page[VALUES]
        begin = page[BODY]
        end = begin + page[STORED]
        length = page[SIZE]
        if page[KIND] == DICTIONARY_PAGE:
            if length > dictionary.size or count * width > length:  # a text is behind its length
                return False
            if snappy:
                if not decompress(data, begin, end, dictionary, length):
                    return False
            elif length != end - begin:
                return False
            else:
                copy_bytes(data, begin, dictionary, ZERO, length)
            size = count
            continue
        if count > rows - first:
            return False
        if page[KIND] == DATA_PAGE_V2:
            if optional and not levels_are_full(data, begin, begin + page[LEVELS], count):
                return False
            begin += page[LEVELS]
            length -= page[LEVELS]
        source = data
        if snappy and page[PACKED] != 0:
            if length > scratch.size or not decompress(data, begin, end, scratch, length):
                return False
            source = scratch
            begin = 0
            end = length
        elif length != end - begin:
            return False
        if page[KIND] == DATA_PAGE and optional:
            if end - begin < 4:
                return False
            levels = read_number(source, begin, 4)
            begin += 4
            if levels > end - begin or not levels_are_full(source, begin, begin + levels, count):
                return False
            begin += levels
        if page[ENCODING] == PLAIN:
            if column.become == CODES or count * width > end - begin:
                return False
            copy_bytes(source, begin, column.bytes, first * width, count * width)
        elif page[ENCODING] == PLAIN_DICTIONARY or page[ENCODING] == RLE_DICTIONARY:
            if not fill_coded(source, begin, end, count, size, column, first, strip):
                return False
        else:
            return False
        first += count
    return first == rows


@kernel
def split_texts(dictionary: Bytes, size: int, count: int, offsets: NDArray[np.int32], texts: Bytes) -> bool:
    """texts[offsets[i] : offsets[i + 1]] = the i-th text of dictionary[:size], each behind its length in four
    bytes; whether they are `count`"""
    at = ZERO
    filled = ZERO
    offsets[0] = 0
    for i in range(count):
        if at + 4 > size:
            return False
        length = read_number(dictionary, at, 4)
        at += 4
        if length > size - at or length > texts.size - filled:
            return False
        copy_bytes(dictionary, at, texts, filled, length)
        at += length
        filled += length
        offsets[np.uint64(i + 1)] = filled
    return at == size
