"""From raw figures to medians, paired ratios, and tables."""

from __future__ import annotations

import statistics

import machine as machine_module

INGLE = "ingle"


def paired_ratios(ours, theirs):
    """Ratios of the rounds in which both sides gave a figure."""
    return [a / b for a, b in zip(ours, theirs) if a is not None and b is not None]


def median(values):
    values = [v for v in values if v is not None]
    return statistics.median(values) if values else None


def column(records, key):
    """One figure of each round; None where a side failed or did not measure it."""
    return [record.get(key) if record else None for record in records]


def compare(sides, key, higher_is_better=True):
    """The best peer and Ingle's paired ratio to it, larger than 1 where Ingle is better."""
    ours = column(sides.get(INGLE, []), key)
    medians = {name: median(column(records, key)) for name, records in sides.items() if name != INGLE}
    medians = {name: value for name, value in medians.items() if value is not None}
    result = {"key": key, "ingle": median(ours), "peer": None, "peer_name": None, "ratio": None, "peers": medians,
              "n_rounds": sum(v is not None for v in ours)}
    if medians:
        best = (max if higher_is_better else min)(medians, key=medians.get)
        theirs = column(sides[best], key)
        ratios = paired_ratios(ours, theirs) if higher_is_better else paired_ratios(theirs, ours)
        result.update(peer=medians[best], peer_name=best)
        if ratios:
            result.update(ratio=statistics.median(ratios), ratio_min=min(ratios), ratio_max=max(ratios))
    return result


def share_of_limit(row):
    """The median share of what the machine can do at most that Ingle reached, and which limit that is."""
    facts = row.get("ingle") or {}
    if row["kind"] == "prefill":
        key, limit = "linear_gops", facts.get("prefill_limit", "int8_gops")
    elif row["kind"] == "decode" and row["n_seqs"] == 1:
        key, limit = "file_gb_per_s", "read_gb_per_s"
    else:
        return None, None
    shares = [r[key] / r["limits"][limit] for r in row["sides"].get(INGLE, []) if r and r.get("limits") and key in r]
    names = {"int8_gops": "int8", "bf16_gops": "bf16", "f32_gops": "f32", "read_gb_per_s": "memory"}
    return median(shares), names[limit]


def summarize(rows):
    """Adds to each measured row what the tables show."""
    for row in rows:
        if row["kind"] == "load":
            row["summary"] = [compare(row["sides"], key, higher_is_better=False)
                              for key in ("seconds", "peak_bytes", "anonymous_bytes")]
        else:
            row["summary"] = [compare(row["sides"], "tokens_per_s")]
        row["share"], row["limit"] = share_of_limit(row)
    for row in rows:
        row["kept"] = kept_beside_busy(row, rows) if row["busy"] else None
    return rows


def kept_beside_busy(row, rows):
    """Each side's speed beside the busy process, as share of its own undisturbed speed in the same round."""
    same = lambda other: (other["base"] and all(
        other[k] == row[k] for k in ("file", "threads", "isa", "kind", "n_tokens", "n_seqs", "depth")))
    quiet = next((other for other in reversed(rows) if same(other)), None)
    if quiet is None:
        return {}
    kept = {}
    for name, records in row["sides"].items():
        pairs = paired_ratios(column(records, "tokens_per_s"), column(quiet["sides"].get(name, []), "tokens_per_s"))
        if pairs:
            kept[name] = statistics.median(pairs)
    return kept


def number(value, digits=3):
    """As many digits as a figure can bear."""
    if value is None:
        return "-"
    if value >= 10 ** (digits - 1):
        return f"{value:.0f}"
    return f"{value:.{digits - 1 if value < 1 else digits - len(str(int(value)))}f}"


def ratio(summary):
    return "-" if summary["ratio"] is None else f"{summary['ratio']:.2f}"


def spread(summary):
    return "-" if summary["ratio"] is None else f"{summary['ratio_min']:.2f} to {summary['ratio_max']:.2f}"


def table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines) + "\n"


def speed_table(rows):
    lines = []
    for row in rows:
        s = row["summary"][0]
        share = "-" if row["share"] is None else f"{100 * row['share']:.0f} % of {row['limit']}"
        others = ", ".join(f"{name} {number(v)}" for name, v in s["peers"].items() if name != s["peer_name"]) or "-"
        lines.append([
            row["type"], row["threads"], row["what"], number(s["ingle"]), share, number(s["peer"]),
            s["peer_name"] or "-", ratio(s), spread(s), others, s["n_rounds"]])
    return table(["file", "threads", "what", "Ingle, tokens/s", "share of limit", "best peer, tokens/s", "which",
                  "ratio", "min to max", "other peers", "rounds"], lines)


def load_table(rows):
    names = {"seconds": ("to the first token, s", 1), "peak_bytes": ("peak resident, MiB", 2**20),
             "anonymous_bytes": ("anonymous, MiB", 2**20)}
    lines = []
    for row in rows:
        for s in row["summary"]:
            name, unit = names[s["key"]]
            if s["ingle"] is None and s["peer"] is None:
                continue
            show = lambda value: "-" if value is None else f"{value:.2f}" if unit == 1 else f"{value / unit:.0f}"
            lines.append([row["file"], name, show(s["ingle"]), show(s["peer"]), s["peer_name"] or "-", ratio(s),
                          spread(s), s["n_rounds"]])
    return table(["file", "what", "Ingle", "best peer", "which", "times less", "min to max", "rounds"], lines)


def busy_table(rows):
    lines = []
    for row in rows:
        s = row["summary"][0]
        kept = ", ".join(f"{name} {100 * share:.0f} %" for name, share in row["kept"].items() if name != INGLE)
        own = row["kept"].get(INGLE)
        lines.append([row["file"], row["threads"], row["what"].removesuffix(", busy"), number(s["ingle"]),
                      "-" if own is None else f"{100 * own:.0f} %", number(s["peer"]), s["peer_name"] or "-",
                      kept or "-", ratio(s), s["n_rounds"]])
    return table(["file", "threads", "what", "Ingle, tokens/s", "keeps", "best peer, tokens/s", "which", "peers keep",
                  "ratio", "rounds"], lines)


def peer_line(name, peer):
    """One line about a build: what it is, by which compiler, with which flags."""
    parts = [peer.get("package"), peer.get("ggml") and f"ggml {peer['ggml']}", peer.get("compiler"),
             peer.get("cmake_args"), peer.get("openmp")]
    line = f"- **{name}**: {', '.join(str(part) for part in parts if part)}"
    return line + (f"; `{peer['system_info'].strip(' |')}`" if peer.get("system_info") else "")


def markdown(result):
    """The tables for people."""
    host = result["machine"]
    rows = [r for r in result["rows"] if any(r["sides"].values())]
    plain = [r for r in rows if r["kind"] != "load" and not r["busy"] and not r["base"] and not r["isa"]]
    parts = [f"# Ingle beside llama.cpp, {result['date']}\n"]
    if result["partial"]:
        parts.append("**Partial: the run was stopped before its end.**\n")
    parts.append(f"{machine_module.in_words(host)}. Transparent huge pages: {host['huge_pages'] or 'unknown'}; "
                 f"governor: {host['governor'] or 'not shown'}. Medians over rounds in which the sides take turns; "
                 "ratios are of pairs in the same round, above 1 where Ingle is better. How: `bench/README.md`.\n")
    reads = [record["limits"]["read_gb_per_s"] for row in plain for record in row["sides"].get(INGLE, [])
             if record and record.get("limits")]
    if reads:
        parts.append(f"Memory read {number(min(reads))} to {number(max(reads))} GB/s in the probes beside the figures, "
                     f"median {number(median(reads))}.\n")
    chosen = lambda f: [r for r in rows if f(r)]
    for title, part, render in (
        *((f"Speed, {shape} shape" if shape else "Speed", [r for r in plain if r["shape"] == shape], speed_table)
          for shape in dict.fromkeys(r["shape"] for r in plain)),
        ("Speed without AVX-512 on either side", chosen(lambda r: r["isa"]), speed_table),
        ("Loading and memory", chosen(lambda r: r["kind"] == "load"), load_table),
        ("Beside one other busy process", chosen(lambda r: r["busy"]), busy_table),
    ):
        if part:
            parts += [f"## {title}\n", render(part)]
    parts.append("## Who\n")
    ingle = result["ingle"]
    parts.append("\n".join([f"- **ingle**: {ingle['version']}, commit {ingle['commit'] or 'unknown'}",
                            *(peer_line(name, peer) for name, peer in result["peers"].items())]) + "\n")
    if result["notes"]:
        parts.append("## Notes\n")
        parts.append("\n".join(f"- {note}" for note in result["notes"]) + "\n")
    return "\n".join(parts)
