"""Runs a plan: the sides take turns, round after round, until the rounds or the time are used up."""

from __future__ import annotations

import subprocess
import threading
import time
from contextlib import nullcontext
from pathlib import Path

import machine
from plan import seconds as planned_seconds
from sides import Busy, SideError

# Set when the run is to end. The exception that says so is lost where Python cannot pass it on, in finalizers.
stop_wanted = threading.Event()

# Memory that must be left beside the weights: K/V memory, activations, the probe.
MEMORY_SPARE = 2 << 30


class Clock:
    """Shares the time that is left among the blocks that are left, by weight, and learns from their first rounds how
    long a unit of weight takes here."""

    def __init__(self, total_s, total_weight, now=time.monotonic):
        self.now = now
        self.started = now()
        self.deadline = self.started + total_s
        self.weight_left = total_weight
        self.block_deadline = self.deadline
        self.first_rounds_s = self.first_rounds_weight = 0.0

    def start_block(self, weight):
        left_s = max(0.0, self.deadline - self.now())
        self.block_deadline = self.now() + left_s * weight / self.weight_left
        self.weight_left -= weight

    def skip_block(self, weight):
        self.weight_left -= weight

    def learn(self, weight, seconds):
        """What the first round of a block took, loading and warming up included."""
        self.first_rounds_weight += weight
        self.first_rounds_s += seconds

    def expected(self, weight):
        """Seconds for one round of blocks of this weight."""
        return weight * (self.first_rounds_s / self.first_rounds_weight if self.first_rounds_weight else 1.0)

    def another_round(self, done, last_s, rounds_min, rounds_max):
        """Whether a round fits. The first does as long as any time is left, and the least number of them while one
        round of each block that comes later still fits beside them; what is beyond, within the block's share."""
        if done >= rounds_max:
            return False
        if done == 0:
            return self.now() < self.deadline
        ends = self.now() + last_s
        if ends + self.expected(self.weight_left) > self.deadline:
            return False
        return done < rounds_min or ends <= self.block_deadline

    def progress(self):
        minutes = lambda s: f"{int(s) // 60}:{int(s) % 60:02}"
        now = self.now()
        return f"{minutes(now - self.started)} gone, at most {minutes(max(0, self.deadline - now))} left"


class Driver:
    """Owns the sides while they measure, and collects `rows` and `notes` for the report."""

    def __init__(self, ingle, peers, avx2_peers, rounds, folder, keep, say):
        self.ingle, self.peers, self.avx2_peers = ingle, peers, avx2_peers
        self.rounds, self.folder, self.keep, self.say = rounds, Path(folder), keep, say
        self.rows, self.notes = [], []

    def note(self, text):
        if text not in self.notes:
            self.notes.append(text)
            self.say(f"note: {text}")

    def run(self, files, total_s, after_block):
        self.clock = Clock(total_s, sum(self.weight(file, block) for file in files for block in file.blocks))
        for file in files:
            made, n_started = None, 0
            try:
                made = self.make(file)
                warm_page_cache(file.path)
                together = self.fits(file)
                for block in file.blocks:
                    self.clock.start_block(self.weight(file, block))
                    n_started += 1
                    try:
                        self.run_block(file, block, together)
                    finally:
                        after_block()
            except SideError as error:
                self.note(f"{file.name}: {error}")
                for block in file.blocks[n_started:]:
                    self.clock.skip_block(self.weight(file, block))
            finally:
                self.close_all_but([])
                if made and not self.keep:
                    made.unlink(missing_ok=True)

    def weight(self, file, block):
        """The block's share of the time. Loading the file and warming up is about another round."""
        return planned_seconds(file, block, len(self.sides_of(file, block))) + 5.0

    def close_all_but(self, sides):
        for side in [self.ingle, *self.peers, *self.avx2_peers]:
            if side not in sides:
                side.close()

    def make(self, file):
        """Writes the synthetic model if the plan names no path; returns what is to be removed."""
        if file.path:
            return None
        path = self.folder / f"{file.name}.gguf"
        existed = path.exists()
        if not existed:
            self.say(f"making {path.name} ({self.clock.progress()})")
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                done = subprocess.run(
                    [self.ingle.binary, "bench", "--synthetic", f"{file.shape.name}:{file.type_name}", "--save", path],
                    capture_output=True, text=True)
            finally:
                # There only if it was stopped.
                path.with_name(f"{path.name}.part").unlink(missing_ok=True)
            if done.returncode != 0:
                raise SideError((done.stderr.strip().splitlines() or ["no file was made"])[-1])
        file.path = path
        return None if existed else path

    def fits(self, file):
        """Whether all sides' weights fit into memory at once. Asked while none is loaded."""
        available = machine.available_bytes()
        n_resident = 1 + max(sum(peer.resident for peer in peers) for peers in (self.peers, self.avx2_peers))
        if available is None or file.path.stat().st_size * n_resident + MEMORY_SPARE < available:
            return True
        self.note(f"{file.name}: memory for one side at a time; each is loaded again for each round")
        return False

    def sides_of(self, file, block):
        peers = self.avx2_peers if block.isa else self.peers
        kinds = {row.kind for row in block.rows}
        return [self.ingle] + [p for p in peers if kinds <= set(p.kinds) and not unfit(p, file, block)]

    def run_block(self, file, block, together):
        sides = self.sides_of(file, block)
        name = f"{file.name}, {block.threads} thread{'s' * (block.threads != 1)}"
        if not self.clock.another_round(0, 0.0, file.rounds_min, self.rounds):
            self.note(f"not measured, no time was left: {name}: {'; '.join(row.what for row in block.rows)}")
            return
        started = time.monotonic()
        self.say(f"{name}: {'; '.join(row.what for row in block.rows)} ({self.clock.progress()})")
        others = machine.cores_in_use()
        if others is not None and others > 0.1:
            self.note(f"other processes used {others:.1f} cores before {name}: {block.rows[0].what}")
        rows = [self.row(file, block, row, sides) for row in block.rows]
        self.rows += rows
        loads = block.rows[0].kind == "load"
        self.close_all_but([] if loads or not together else sides)
        if together and not loads:
            for side in sides:
                self.opened(side, file, block, rows)
        done, last_s = 0, 0.0
        while self.clock.another_round(done, last_s, file.rounds_min, self.rounds):
            if stop_wanted.is_set():
                raise KeyboardInterrupt
            round_started = time.monotonic()
            for side in sides if not together and not loads else [None]:
                self.run_round(file, block, rows, sides if side is None else [side], done, reopen=side is not None)
            last_s = time.monotonic() - round_started
            if done == 0:
                self.clock.learn(self.weight(file, block), time.monotonic() - started)
            done += 1
            self.say(f"  round {done} of at most {self.rounds} took {last_s:.0f} s ({self.clock.progress()})")

    def run_round(self, file, block, rows, sides, round_, reopen):
        for side in sides:
            if reopen:
                self.close_all_but([])
                self.opened(side, file, block, rows)
        for row, record in zip(block.rows, rows):
            for side in sides:
                values = record["sides"][side.name]
                probe = None
                try:
                    if side.name in record["failed"]:
                        values.append(None)
                        continue
                    if row.kind == "load":
                        values.append(side.load(file, block, with_memory=round_ == 0))
                        continue
                    # Memory of a shared machine is not the same from minute to minute, so it is probed beside each
                    # figure that depends on it; how fast cores multiply is known from one probe per round.
                    if (row.kind == "decode" or side is self.ingle) and self.ingle.process and self.ingle.process.alive:
                        probe = self.ingle.limits()
                    with Busy() if row.busy else nullcontext():
                        result = side.measure(row)
                    values.append({**result, "limits": probe})
                except SideError as error:
                    values.append(None)
                    self.failed(side, file, [record], error)

    def opened(self, side, file, block, rows):
        """Opens a side; one that cannot is left out of the block."""
        try:
            if all(side.name in record["failed"] for record in rows):
                return
            side.open(file, block)
            if side is self.ingle:
                for record in rows:
                    record["ingle"] = side.description
        except SideError as error:
            self.failed(side, file, rows, error)
            side.close()

    def failed(self, side, file, records, error):
        for record in records:
            record["failed"].append(side.name)
        self.note(f"{side.name} on {file.name}, {records[0]['what']}: {error}")

    def row(self, file, block, row, sides):
        return {
            "file": file.name, "type": file.type_name, "shape": file.shape.name, "file_bytes": file.path.stat().st_size,
            "threads": block.threads, "isa": block.isa, "what": row.what, "kind": row.kind, "n_tokens": row.n_tokens,
            "n_seqs": row.n_seqs, "depth": row.depth, "busy": row.busy, "base": row.base,
            "sides": {side.name: [] for side in sides}, "failed": [],
        }


def unfit(side, file, block):
    """Programs that load for each measurement take the time for some types only, and would be measured beside the busy
    process while they load, too."""
    return not side.resident and (not file.compared_widely or any(row.busy for row in block.rows))


def warm_page_cache(path):
    with open(path, "rb", buffering=0) as file:
        buffer = bytearray(1 << 22)
        while file.readinto(buffer):
            pass
