"""Runs random logits through llama.cpp's samplers (llama-cpp-python 0.3.36 was used) and writes goldens.json: what is
left of the candidates, with probabilities. Steps that need a vocabulary (DRY's breakers) or draw at random are set up
so that they don't."""
import ctypes, json, math, pathlib, random
import llama_cpp as L

random.seed(20251120)

def apply(samplers, logits, history):
    n = len(logits)
    data = (L.llama_token_data * n)(*[L.llama_token_data(id=i, logit=x, p=0.0) for i, x in enumerate(logits)])
    array = L.llama_token_data_array(data=data, size=n, selected=-1, sorted=False)
    chain = L.llama_sampler_chain_init(L.llama_sampler_chain_default_params())
    for s in samplers:
        L.llama_sampler_chain_add(chain, s)
    for t in history:
        L.llama_sampler_accept(chain, t)
    L.llama_sampler_apply(chain, ctypes.byref(array))
    left = [(array.data[i].id, array.data[i].logit) for i in range(array.size)]
    left = [(i, x) for i, x in left if x > -math.inf]
    L.llama_sampler_free(chain)
    top = max(x for _, x in left)
    total = sum(math.exp(x - top) for _, x in left)
    return sorted((i, math.exp(x - top) / total) for i, x in left)

def build(p, n_vocab):
    """The chain as llama.cpp's own front end orders it."""
    m = p.get("min_keep", 0)
    chain = []
    if p.get("logit_bias"):
        bias = (L.llama_logit_bias * len(p["logit_bias"]))(*[L.llama_logit_bias(token=t, bias=b) for t, b in p["logit_bias"]])
        chain.append(L.llama_sampler_init_logit_bias(n_vocab, len(bias), bias))
    if "mirostat" in p:
        version, tau, eta = p["mirostat"]
        chain.append(L.llama_sampler_init_temp(p["temperature"]))
        if version == 1:
            chain.append(L.llama_sampler_init_mirostat(n_vocab, 0, tau, eta, 100))
        else:
            chain.append(L.llama_sampler_init_mirostat_v2(0, tau, eta))
        return chain
    chain.append(L.llama_sampler_init_penalties(n_vocab, p.get("repeat_last_n", 64), p.get("repeat_penalty", 1.0), p.get("frequency_penalty", 0.0), p.get("presence_penalty", 0.0)))
    if "dry_multiplier" in p:
        chain.append(L.llama_sampler_init_dry(None, p["dry_multiplier"], p["dry_base"], p["dry_allowed_length"], p["dry_penalty_last_n"], None, 0))
    chain.append(L.llama_sampler_init_top_n_sigma(p.get("top_n_sigma", -1.0)))
    chain.append(L.llama_sampler_init_top_k(p.get("top_k", 0)))
    chain.append(L.llama_sampler_init_typical(p.get("typical_p", 1.0), m))
    chain.append(L.llama_sampler_init_top_p(p.get("top_p", 1.0), m))
    chain.append(L.llama_sampler_init_min_p(p.get("min_p", 0.0), m))
    chain.append(L.llama_sampler_init_xtc(p.get("xtc_probability", 0.0), p.get("xtc_threshold", 0.1), m, 1))
    chain.append(L.llama_sampler_init_temp_ext(p["temperature"], p.get("dynatemp_range", 0.0), p.get("dynatemp_exponent", 1.0)))
    return chain

u = random.uniform
OPTIONS = {
    "top_k": lambda: random.choice([1, 5, 20, 40]),
    "top_p": lambda: round(u(0.2, 0.99), 3),
    "min_p": lambda: round(u(0.01, 0.4), 3),
    "typical_p": lambda: round(u(0.2, 0.95), 3),
    "top_n_sigma": lambda: round(u(0.5, 3.0), 3),
    "xtc": lambda: round(u(0.02, 0.45), 3),
    "dyn": lambda: (round(u(0.1, 1.5), 3), round(u(0.5, 2.0), 3)),
    "penalties": lambda: (random.choice([-1, 4, 16, 64]), round(u(1.0, 1.6), 3), round(u(-0.5, 1.0), 3), round(u(-0.5, 1.0), 3)),
    "dry": lambda: (round(u(0.2, 2.0), 3), round(u(1.1, 2.5), 3), random.choice([0, 1, 2, 4]), random.choice([-1, 8, 64])),
    "min_keep": lambda: random.choice([1, 3, 10]),
    "bias": lambda: [[random.randrange(40), round(u(-5, 5), 3)] for _ in range(3)],
}

def case(names):
    # top-n-sigma leaves what it removes in llama.cpp's list, at minus infinity: typical sampling then computes with
    # NaN, and the dynamic temperature counts what is gone. Here what is removed is gone.
    if "top_n_sigma" in names:
        names = [n for n in names if n not in ("typical_p", "dyn")]
    n = random.choice([40, 100, 160])
    spread = random.choice([0.5, 2.0, 4.0])
    logits = [round(random.gauss(0, spread), 4) for _ in range(n)]
    history = [random.randrange(6) for _ in range(random.choice([0, 10, 60]))]
    if random.random() < 0.5 and history:
        history += history[-7:]
    p = {"temperature": round(u(0.3, 2.0), 3)}
    for name in names:
        value = OPTIONS[name]()
        if name == "xtc":
            p.update(xtc_probability=1.0, xtc_threshold=value)
        elif name == "dyn":
            p.update(dynatemp_range=value[0], dynatemp_exponent=value[1])
        elif name == "penalties":
            p.update(repeat_last_n=value[0], repeat_penalty=value[1], frequency_penalty=value[2], presence_penalty=value[3])
        elif name == "dry":
            p.update(dry_multiplier=value[0], dry_base=value[1], dry_allowed_length=value[2], dry_penalty_last_n=value[3])
        elif name == "bias":
            p.update(logit_bias=value)
        else:
            p[name] = value
    return p, logits, history

cases = []
def add(p, logits, history):
    # llama.cpp has no "whole history": that is what a window of its length is.
    run = dict(p)
    for name in ("repeat_last_n", "dry_penalty_last_n"):
        if run.get(name) == -1:
            run[name] = max(len(history), 1)
    left = apply(build(run, len(logits)), logits, history)
    cases.append({"params": p, "logits": logits, "history": history, "left": [[i, float(f"{x:.7g}")] for i, x in left]})

for name in OPTIONS:
    for _ in range(6):
        add(*case([name]))
for _ in range(90):
    add(*case(random.sample(list(OPTIONS), random.choice([2, 3, 5]))))
for version in (1, 2):
    for _ in range(6):
        p, logits, _ = case([])
        p["mirostat"] = [version, round(u(1.0, 5.0), 3), 0.1]
        add(p, logits, [])
out = pathlib.Path(__file__).parent / "goldens.json"
out.write_text("[\n" + ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases) + "\n]\n")
print(len(cases), "cases", out.stat().st_size, "bytes")
