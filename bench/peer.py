"""llama.cpp as a process that measures what it is asked for; `compare.py` starts it with the Python of a virtual
environment that has llama-cpp-python.

It drives llama.cpp's C interface and does the same work as `ingle bench --stdin`, whose requests it shares: a JSON
object per line, answered by one. The first line of the output says what this llama.cpp is; then come

    {"measure": "load", "model": FILE}
    {"measure": "context", "n_ctx": 1024, "threads": 2}       sizes and threads of what follows
    {"measure": "prefill", "n_tokens": 512}
    {"measure": "decode", "n_tokens": 128, "n_seqs": 1, "depth": 0, "max_seconds": 20}

and whatever fails is answered by {"error": "..."}.
"""

import ctypes
import importlib.metadata
import json
import os
import sys
import time

UBATCH = 512


class LlamaCpp:
    """A model of llama.cpp, and a context that is made anew when a request needs another one."""

    def __init__(self):
        import llama_cpp

        self.lc = llama_cpp
        # Kept: llama.cpp holds the pointer only.
        self.quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self.quiet, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        self.model = self.context = None
        self.n_ctx, self.threads, self.n_seqs = 1024, os.cpu_count(), 0
        # Sequences and tokens in each that the K/V memory holds.
        self.held = None

    def describe(self):
        folder = os.path.join(os.path.dirname(self.lc.__file__), "lib")
        return {
            "package": "llama-cpp-python " + importlib.metadata.version("llama-cpp-python"),
            "system_info": self.lc.llama_print_system_info().decode().strip(),
            "ggml": ggml_version(folder),
            "openmp": openmp_runtime(folder),
        }

    def load(self, model):
        started = time.perf_counter()
        self.model = self.lc.llama_model_load_from_file(model.encode(), self.lc.llama_model_default_params())
        if not self.model:
            raise RuntimeError("llama.cpp cannot load this file")
        self.n_vocab = self.lc.llama_vocab_n_tokens(self.lc.llama_model_get_vocab(self.model))
        return {"seconds": time.perf_counter() - started}

    def configure(self, n_ctx, threads):
        """Sizes of the next contexts; the number of threads applies at once."""
        self.threads = threads
        if n_ctx != self.n_ctx:
            self.n_ctx, self.n_seqs = n_ctx, 0
        if self.context:
            self.lc.llama_set_n_threads(self.context, threads, threads)
        return {}

    def need(self, n_seqs):
        """A context for exactly this number of sequences: llama.cpp's memory is laid out for the most it may get."""
        if self.context and n_seqs == self.n_seqs:
            return
        if self.context:
            self.lc.llama_batch_free(self.batch)
            self.lc.llama_free(self.context)
            self.context = None
        params = self.lc.llama_context_default_params()
        params.n_ctx = self.n_ctx * n_seqs
        params.n_batch = params.n_ubatch = UBATCH
        params.n_threads = params.n_threads_batch = self.threads
        params.n_seq_max = n_seqs
        self.context = self.lc.llama_init_from_model(self.model, params)
        if not self.context:
            raise RuntimeError(f"llama.cpp cannot make a context of {n_seqs} x {self.n_ctx} tokens")
        self.memory = self.lc.llama_get_memory(self.context)
        self.batch = self.lc.llama_batch_init(UBATCH, 0, 1)
        self.n_seqs, self.held = n_seqs, None
        # A context's first graph is not what is measured.
        self.step([(1, 0, seq, True) for seq in range(n_seqs)])
        self.lc.llama_memory_clear(self.memory, True)

    def step(self, rows):
        """One decode call. Each row: token, position, sequence, whether logits are wanted."""
        for i, (token, position, seq, logits) in enumerate(rows):
            self.batch.token[i] = token
            self.batch.pos[i] = position
            self.batch.n_seq_id[i] = 1
            self.batch.seq_id[i][0] = seq
            self.batch.logits[i] = logits
        self.batch.n_tokens = len(rows)
        result = self.lc.llama_decode(self.context, self.batch)
        if result != 0:
            raise RuntimeError(f"llama_decode gave {result}")
        self.lc.llama_synchronize(self.context)

    def token(self, seq, i):
        return (seq * 7919 + i * 104729 + 1) % self.n_vocab

    def fill(self, seq, n):
        for start in range(0, n, UBATCH):
            end = min(n, start + UBATCH)
            self.step([(self.token(seq, i), i, seq, i == n - 1) for i in range(start, end)])

    def prefill(self, n_tokens):
        """A prompt in one sequence, with logits for its last token."""
        self.need(1)
        self.lc.llama_memory_clear(self.memory, True)
        self.held = None
        started = time.perf_counter()
        self.fill(0, n_tokens)
        return rate(n_tokens, time.perf_counter() - started)

    def decode(self, n_tokens, n_seqs=1, depth=0, max_seconds=None):
        """Tokens in each of some sequences together, with logits for each, after `depth` tokens."""
        self.need(n_seqs)
        if self.held == (n_seqs, depth):
            for seq in range(n_seqs):
                self.lc.llama_memory_seq_rm(self.memory, seq, depth, -1)
        else:
            self.lc.llama_memory_clear(self.memory, True)
            for seq in range(n_seqs if depth else 0):
                self.fill(seq, depth)
            self.held = (n_seqs, depth)
        started = time.perf_counter()
        done = 0
        while done < n_tokens:
            i = depth + done
            self.step([(self.token(seq, i), i, seq, True) for seq in range(n_seqs)])
            done += 1
            if max_seconds is not None and time.perf_counter() - started >= max_seconds:
                break
        return rate(done * n_seqs, time.perf_counter() - started)


def rate(n_tokens, seconds):
    return {"n_tokens": n_tokens, "seconds": seconds, "tokens_per_s": n_tokens / seconds}


def ggml_version(folder):
    """Version and commit of the library, where it tells."""
    try:
        library = ctypes.CDLL(os.path.join(folder, "libggml-base.so"))
        library.ggml_version.restype = library.ggml_commit.restype = ctypes.c_char_p
        return f"{library.ggml_version().decode()} ({library.ggml_commit().decode()})"
    except (OSError, AttributeError):
        return None


def openmp_runtime(folder):
    """The library of threads that the kernels use: libgomp comes with gcc, libomp with clang."""
    try:
        with open(os.path.join(folder, "libggml-cpu.so"), "rb") as file:
            code = file.read()
    except OSError:
        return None
    return next((name for name in ("libgomp", "libomp", "libiomp5") if name.encode() + b".so" in code), None)


def main():
    # Whatever libraries print must not stand between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(value):
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    try:
        peer = LlamaCpp()
        answer(peer.describe())
    except Exception as error:
        answer({"error": f"{type(error).__name__}: {error}"})
        return
    known = {"load": peer.load, "context": peer.configure, "prefill": peer.prefill, "decode": peer.decode}
    for line in sys.stdin:
        try:
            request = json.loads(line)
            answer(known[request.pop("measure")](**request))
        except Exception as error:
            answer({"error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main()
