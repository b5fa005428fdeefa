"""Reads machine code for what a GPU would not say: registers that are touched while a wgmma has them, and registers that a
warpgroup uses after it has given them back. For scripts/gpu-sass.

An HGMMA reads its A registers and writes its sums until a WARPGROUP.DEPBAR has waited for its group; in between nothing else
may write the first, nor read or write the second. Groups end at the HGMMA that carries `gsb0`.
"""
import re

LINE = re.compile(r"^\s*/\*([0-9a-f]+)\*/\s+(?:(@!?U?P\w+)\s+)?([A-Z]\S*)\s*([^;]*);")
REGISTER = re.compile(r"(?<![A-Z0-9_])R(\d+)(?:\.(64|128|H0_H0|H1_H1|F32x2\w*|B\d\w*))?")
# Instructions whose first register is a source.
NO_TARGET = ("ST", "RED", "R2UR", "R2P", "SYNCS", "UTMA", "BRA", "BRX", "EXIT", "WARPSYNC", "BAR", "UBLKCP", "CCTL", "LDGSTS", "BPT",
             "ISETP", "FSETP", "DSETP", "PLOP", "VOTEU", "NANOSLEEP", "ERRBAR", "MEMBAR", "FENCE", "BSSY", "BSYNC", "CALL", "RET", "ELECT")


def wide(opcode, at):
    """Registers of operand `at` (0: the target) of an instruction."""
    if "HGMMA" in opcode:
        rows = int(re.search(r"64x(\d+)x", opcode)[1])
        return 4 if at == 1 else rows // 2
    if "HMMA" in opcode:
        return {0: 4, 1: 4, 2: 2, 3: 4}[at]
    if "LDSM" in opcode:
        return 4 if at == 0 else 1
    bits = 4 if ".128" in opcode else 2 if ".64" in opcode else 1
    if opcode.startswith(("LD", "ULD", "ATOM")):
        return bits if at == 0 else 2  # addresses may be of 64 bits
    if opcode.startswith(("ST", "RED")):
        return max(bits, 2)
    if opcode.startswith(("IMAD.WIDE", "CS2R", "I2F.F64", "MOV.64", "F2F.F64", "DADD", "DMUL", "DFMA")):
        return 2 if at in (0, 3) and ".32" not in opcode else (2 if opcode.startswith("D") else 1)
    return 2 if ".64" in opcode else 1


class Instruction:
    def __init__(self, address, opcode, operands):
        self.address, self.opcode, self.operands = address, opcode, operands
        self.target = None
        if opcode.startswith(("BRA", "WARPSYNC.COLLECTIVE", "BSSY", "CALL")):
            found = re.findall(r"0x([0-9a-f]+)", operands)
            self.target = int(found[-1], 16) if found else None
        self.reads, self.writes = set(), set()
        places = [part for part in re.split(r",\s*", operands)]
        target_open = not opcode.startswith(NO_TARGET)
        order = 0
        for part in places:
            registers = REGISTER.findall(part)
            brackets = "[" in part
            if not registers:
                if re.search(r"(?<!U)RZ", part) and target_open and not brackets:
                    target_open, order = False, order + 1
                elif re.search(r"(?<!U)RZ", part):
                    order += 1
                continue
            for number, width in registers:
                number = int(number)
                if target_open and not brackets:
                    count = wide(opcode, 0)
                    self.writes |= set(range(number, number + count))
                    target_open = False
                else:
                    count = 2 if width == "64" or brackets and ".64" in part else wide(opcode, max(order, 1))
                    self.reads |= set(range(number, number + count))
                order += 1


def instructions(text):
    """The functions of a disassembly: name, instructions in order."""
    name, found = None, {}
    for line in text.splitlines():
        if match := re.search(r"Function : (\w+)", line):
            name = match[1]
            found[name] = []
        elif name and (match := LINE.match(line)):
            found[name].append((int(match[1], 16), match[2], match[3], match[4].strip()))
    return found


def products(listing):
    """Complaints about one function's registers under its HGMMA."""
    code = [Instruction(address, opcode, operands) for address, _, opcode, operands in listing]
    guarded = [guard is not None for _, guard, _, _ in listing]
    place = {instruction.address: at for at, instruction in enumerate(code)}
    complaints, seen, waiting = set(), set(), [(0, (frozenset(), ()))]
    while waiting:
        at, state = waiting.pop()
        if at >= len(code) or (at, state) in seen:
            continue
        seen.add((at, state))
        if len(seen) > 400_000:
            return {"too many ways through the code to follow"}
        instruction, (opened, pending) = code[at], state
        opcode = instruction.opcode
        flying = opened.union(*pending) if pending else opened
        sums = {r for kind, first, count in flying if kind == "sums" for r in range(first, first + count)}
        operands = {r for kind, first, count in flying if kind == "A" for r in range(first, first + count)}
        if opcode.startswith("HGMMA"):
            registers = [int(number) for number, _ in REGISTER.findall(instruction.operands)]
            target, count = registers[0], wide(opcode, 0)
            from_registers = re.match(r"R\d+, R\d+", instruction.operands)
            mine = {("sums", target, count)}
            if set(range(target, target + count)) & operands:
                complaints.add(f"{instruction.address:#x}: sums over the operand of a product in flight")
            others = {r for kind, first, n in flying if kind == "sums" and (first, n) != (target, count) for r in range(first, first + n)}
            if set(range(target, target + count)) & others:
                complaints.add(f"{instruction.address:#x}: sums over those of another product in flight")
            if from_registers:
                a = registers[1]
                if set(range(a, a + 4)) & sums:
                    complaints.add(f"{instruction.address:#x}: an operand that a product in flight still writes")
                mine.add(("A", a, 4))
            opened = opened | mine
            if "gsb0" in instruction.operands:
                opened, pending = frozenset(), pending + (opened,)
        elif opcode.startswith("WARPGROUP.DEPBAR"):
            left = int(re.search(r"0x([0-9a-f]+)", instruction.operands)[1], 16)
            pending = pending[len(pending) - left:] if left else ()
        else:
            if instruction.writes & (sums | operands) or instruction.reads & sums:
                complaints.add(f"{instruction.address:#x}: {opcode} {instruction.operands} beside a product that has these registers")
        state = (opened, pending)
        if opcode.startswith("EXIT") and not guarded[at]:
            continue
        if opcode.startswith("BRA") and not guarded[at] and ".DIV" not in opcode and ".ANY" not in opcode and "P" not in instruction.operands.split("0x")[0]:
            waiting.append((place.get(instruction.target, len(code)), state))
            continue
        waiting.append((at + 1, state))
        if instruction.target is not None and not opcode.startswith("BSSY"):
            waiting.append((place.get(instruction.target, len(code)), state))
    return complaints


def given_back(listing):
    """Complaints about registers that are used after a warpgroup has given them back (USETMAXREG.DEALLOC)."""
    code = [Instruction(address, opcode, operands) for address, _, opcode, operands in listing]
    guarded = [guard is not None for _, guard, _, _ in listing]
    place = {instruction.address: at for at, instruction in enumerate(code)}
    complaints = set()
    for start, instruction in enumerate(code):
        if not instruction.opcode.startswith("USETMAXREG.DEALLOC"):
            continue
        left = int(re.search(r"0x([0-9a-f]+)", instruction.operands)[1], 16)
        seen, waiting = set(), [start + 1]
        while waiting:
            at = waiting.pop()
            if at >= len(code) or at in seen:
                continue
            seen.add(at)
            now = code[at]
            if now.opcode.startswith("USETMAXREG"):
                continue
            if over := {r for r in now.reads | now.writes if r >= left}:
                complaints.add(f"{now.address:#x}: {now.opcode} uses R{max(over)} of {left} registers that are left")
            if now.opcode.startswith("EXIT") and not guarded[at]:
                continue
            jump = now.target is not None and not now.opcode.startswith("BSSY")
            if jump:
                waiting.append(place.get(now.target, len(code)))
            if not (jump and now.opcode == "BRA" and not guarded[at] and "P" not in now.operands.split("0x")[0]):
                waiting.append(at + 1)
    return complaints
