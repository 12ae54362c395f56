"""What is measured: files, blocks of rows that alternate with each other, and the time that each may take."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

# From most to least used; the order of the table.
TYPES = [
    "Q4_K_M", "Q8_0", "Q4_0", "F16", "Q6_K", "Q4_K", "Q5_K_M", "BF16", "Q4_K_S", "Q3_K_M", "Q2_K_S", "IQ4_XS", "Q5_K",
    "Q3_K", "Q2_K", "IQ4_NL", "MXFP4", "Q4_1", "Q5_0", "Q5_1", "IQ3_S", "IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS",
    "IQ1_M", "IQ1_S", "F32",
]
# The others are measured with fewer tokens, for time.
MAIN_TYPES = ["Q4_K_M", "Q8_0", "Q4_0", "Q6_K"]
# Those that are compared with programs, too, which load the file anew for each figure.
WIDELY_COMPARED = [*MAIN_TYPES, "Q5_K_M"]
# The one that has the rows about prompts, depth, batches, loading and company.
REFERENCE_TYPE = "Q4_K_M"
BITS = {"F32": 32.0, "F16": 16.0, "BF16": 16.0, "Q8_0": 8.5, "Q6_K": 6.6}

ROW_GROUPS = {
    "speed": "pp512 and tg128 of every type",
    "prompt": "a longer prompt",
    "depth": "decoding after many tokens",
    "batch": "sequences that decode together",
    "load": "time to the first token from a cold process, and memory",
    "busy": "speed beside one other process that computes",
    "8b": "the larger shape",
    "avx2": "both sides without AVX-512 (only with --avx2)",
}


@dataclass(frozen=True)
class Shape:
    name: str
    n_parameters: float


SHAPES = {name: Shape(name, n) for name, n in (("llama-1b", 1.24e9), ("llama-8b", 8.0e9))}


@dataclass(frozen=True)
class Row:
    """One line of the table. `kind`: prefill, decode or load; `busy`: beside a process that computes; `base`: what a
    busy row is compared with, and no line of its own."""

    kind: str
    n_tokens: int = 0
    n_seqs: int = 1
    depth: int = 0
    busy: bool = False
    base: bool = False

    @property
    def what(self):
        """The row's name, as llama-bench would spell it."""
        name = {"prefill": f"pp{self.n_tokens}", "decode": f"tg{self.n_tokens}", "load": "load"}[self.kind]
        if self.depth:
            name += f" @ {self.depth}"
        if self.n_seqs > 1:
            name += f" x {self.n_seqs}"
        return name + (", busy" if self.busy else "")

    def request(self):
        """The request that both sides understand."""
        if self.kind == "prefill":
            return {"measure": "prefill", "n_tokens": self.n_tokens}
        request = {"measure": "decode", "n_tokens": self.n_tokens, "n_seqs": self.n_seqs, "depth": self.depth}
        # Beside other processes an engine can be a hundred times slower.
        return {**request, "max_seconds": 10} if self.busy else request


@dataclass
class Block:
    """Rows that are measured in turn, round after round, with one number of threads."""

    rows: list
    threads: int
    isa: str | None = None

    @property
    def n_ctx(self):
        """Tokens that a sequence may need. Loading is measured with a context as people have it."""
        return max(4096 if row.kind == "load" else row.n_tokens + row.depth + 1 for row in self.rows)

    @property
    def n_seqs(self):
        return max(row.n_seqs for row in self.rows)


@dataclass
class File:
    """A model file and what is measured with it. Without a path it is made, as `shape:type_name`."""

    shape: Shape
    type_name: str
    blocks: list = field(default_factory=list)
    path: object = None

    @property
    def main(self):
        return self.shape.name != "llama-1b" or self.type_name in MAIN_TYPES

    @property
    def compared_widely(self):
        return self.shape.name != "llama-1b" or self.type_name in WIDELY_COMPARED

    @property
    def warm_tokens(self):
        """The prompt of the warm-up. A full one for each type, and of the 8B shape, would cost minutes."""
        return 128 if self.shape.name == "llama-8b" else 512 if self.main else 256

    @property
    def rounds_min(self):
        return 2 if self.main else 1

    @property
    def name(self):
        return self.type_name if self.shape.name == "given" else f"{self.shape.name}-{self.type_name}"


def seconds(file, block, n_sides):
    """About what one round of a block takes, as weight for its share of the time. Only proportions matter."""
    n_bytes = file.shape.n_parameters * BITS.get(file.type_name, 4.8) / 8
    size = file.shape.n_parameters / 1.24e9

    def one(row):
        if row.kind == "load":
            return n_bytes / 0.5e9
        if row.kind == "prefill":
            return row.n_tokens * size / (100 * block.threads)
        step = max(n_bytes / 25e9, row.n_seqs * size / (60 * block.threads))
        # The tokens before are computed once per side, not in each round.
        return row.n_tokens * step + row.n_seqs * row.depth * size / (300 * block.threads)

    return n_sides * sum(one(row) * (2 if row.busy else 1) for row in block.rows)


def speed_rows(type_name, threads, most_threads, shape):
    """Prefill and decode, with fewer tokens where a full run would take too much of the time."""
    wide = BITS.get(type_name, 4.8) >= 16
    if shape.name == "llama-8b":
        n_prompt, n_gen = 512, 64
    elif type_name in MAIN_TYPES:
        n_prompt, n_gen = 512, 128 if threads == most_threads else 64
    elif threads == most_threads:
        n_prompt, n_gen = 512, 32 if wide else 64
    else:
        n_prompt, n_gen = 128, 32
    return [Row("prefill", n_prompt), Row("decode", n_gen)]


def plan(types, threads, rows, *, long=False, quick=False, avx2=False, model=None):
    """The files and their blocks, in the order in which they are measured.

    `threads`: the numbers of threads, of which the largest has all rows; `rows`: names of ROW_GROUPS; `model`: a path,
    measured like the reference type instead of synthetic files.
    """
    threads = sorted(set(threads), reverse=True)
    most = threads[0]
    batches = [1, 8] if quick else [1, 2, 4, 8, 16, 32]

    def shrunk(row):
        return replace(row, n_tokens=-(-row.n_tokens // 8), depth=row.depth // 8)

    def blocks(shape, type_name, reference):
        found = []
        for n in threads:
            speed = speed_rows(type_name, n, most, shape)
            if "speed" in rows:
                found.append(Block(speed, n))
        if not reference:
            return found
        prompts = [Row("prefill", 2048)] + [Row("prefill", 8192)] * long
        depths = [Row("decode", 64, depth=4096)] + [Row("decode", 64, depth=16384)] * long
        if "prompt" in rows:
            found.append(Block(prompts, most))
        # One block for each: a side keeps one prompt.
        found += [Block([row], most) for row in depths if "depth" in rows]
        if "batch" in rows:
            found.append(Block([Row("decode", 64 if b < 8 else 32, n_seqs=b) for b in batches], most))
        if "load" in rows:
            found.append(Block([Row("load")], most))
        if "busy" in rows:
            base = [Row("prefill", 512, base=True), Row("decode", 32, base=True)]
            found.append(Block(base + [replace(row, base=False, busy=True) for row in base], most))
        return found

    files = []
    if model is not None:
        # Parameters as if it had five bits for each: for shares of the time, that is good enough.
        shape = Shape("given", model.stat().st_size * 8 / 5)
        files.append(File(shape, model.stem, blocks(shape, REFERENCE_TYPE, True), model))
    else:
        for type_name in types:
            shape = SHAPES["llama-1b"]
            files.append(File(shape, type_name, blocks(shape, type_name, type_name == REFERENCE_TYPE)))
        if "8b" in rows and not quick:
            shape = SHAPES["llama-8b"]
            speed = Block(speed_rows(REFERENCE_TYPE, most, most, shape), most)
            files.append(File(shape, REFERENCE_TYPE, [speed] + [Block([Row("load")], most)] * ("load" in rows)))
    if avx2:
        for file in files:
            if model or (file.type_name == REFERENCE_TYPE and file.shape.name == "llama-1b"):
                file.blocks.append(Block(speed_rows(REFERENCE_TYPE, most, most, file.shape), most, isa="avx2"))
    for file in files:
        for block in file.blocks:
            block.rows = [shrunk(row) for row in block.rows] if quick else block.rows
    files = [file for file in files if file.blocks]
    # The larger shape right after the first file: what matters most is measured when time is short, too.
    files.sort(key=lambda file: (file.type_name != REFERENCE_TYPE, file.shape.n_parameters))
    return files
