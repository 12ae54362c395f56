//! Templates by name, for model files that carry none: the formats that llama.cpp knows under these names
//! (`--chat-template`), as Jinja. They write what its built-in formatter writes, without a token that begins the text
//! (the tokenizer adds it where the model wants one).

/// The names that [`builtin_template`] knows.
pub const BUILTIN_TEMPLATES: [&str; 37] = [
    "chatml",
    "llama2",
    "llama2-sys",
    "llama2-sys-bos",
    "llama2-sys-strip",
    "llama3",
    "llama4",
    "mistral-v1",
    "mistral-v3",
    "mistral-v3-tekken",
    "mistral-v7",
    "mistral-v7-tekken",
    "phi3",
    "phi4",
    "falcon3",
    "zephyr",
    "monarch",
    "gemma",
    "orion",
    "openchat",
    "vicuna",
    "vicuna-orca",
    "deepseek",
    "deepseek2",
    "deepseek3",
    "command-r",
    "chatglm3",
    "chatglm4",
    "minicpm",
    "exaone3",
    "granite",
    "gigachat",
    "megrez",
    "rwkv-world",
    "smolvlm",
    "gpt-oss",
    "glmedge",
];

/// The template of this name (one of [`BUILTIN_TEMPLATES`]).
pub fn builtin_template(name: &str) -> Option<&'static str> {
    Some(match name {
        "chatml" => CHATML,
        "llama2" => LLAMA2,
        "llama2-sys" => LLAMA2_SYS,
        "llama2-sys-bos" => LLAMA2_SYS_BOS,
        "llama2-sys-strip" => LLAMA2_SYS_STRIP,
        "llama3" => LLAMA3,
        "llama4" => LLAMA4,
        "mistral-v1" => MISTRAL_V1,
        "mistral-v3" => MISTRAL_V3,
        "mistral-v3-tekken" => MISTRAL_V3_TEKKEN,
        "mistral-v7" => MISTRAL_V7,
        "mistral-v7-tekken" => MISTRAL_V7_TEKKEN,
        "phi3" => PHI3,
        "phi4" => PHI4,
        "falcon3" => FALCON3,
        "zephyr" => ZEPHYR,
        "monarch" => MONARCH,
        "gemma" => GEMMA,
        "orion" => ORION,
        "openchat" => OPENCHAT,
        "vicuna" => VICUNA,
        "vicuna-orca" => VICUNA_ORCA,
        "deepseek" => DEEPSEEK,
        "deepseek2" => DEEPSEEK2,
        "deepseek3" => DEEPSEEK3,
        "command-r" => COMMAND_R,
        "chatglm3" => CHATGLM3,
        "chatglm4" => CHATGLM4,
        "glmedge" => GLMEDGE,
        "minicpm" => MINICPM,
        "exaone3" => EXAONE3,
        "granite" => GRANITE,
        "gigachat" => GIGACHAT,
        "megrez" => MEGREZ,
        "rwkv-world" => RWKV_WORLD,
        "smolvlm" => SMOLVLM,
        "gpt-oss" => GPT_OSS,
        _ => return None,
    })
}

const CHATML: &str = r"{% for m in messages -%}
{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}
{%- endfor -%}
{{ '<|im_start|>assistant\n' if add_generation_prompt }}";

const LLAMA2: &str = r"{% set ns = namespace(inside=false) -%}
{% for m in messages -%}
{% if not ns.inside %}{{ '[INST] ' }}{% set ns.inside = true %}{% endif -%}
{% if m.role == 'assistant' %}{{ m.content + '</s>' }}{% set ns.inside = false %}
{%- else %}{{ m.content + (' [/INST]' if m.role == 'user' else '\n') }}{% endif -%}
{% endfor %}";

const LLAMA2_SYS: &str = r"{% set ns = namespace(inside=false) -%}
{% for m in messages -%}
{% if not ns.inside %}{{ '[INST] ' }}{% set ns.inside = true %}{% endif -%}
{% if m.role == 'system' %}{{ '<<SYS>>\n' + m.content + '\n<</SYS>>\n\n' }}
{%- elif m.role == 'user' %}{{ m.content + ' [/INST]' }}
{%- else %}{{ m.content + '</s>' }}{% set ns.inside = false %}{% endif -%}
{% endfor %}";

const LLAMA2_SYS_BOS: &str = r"{% set ns = namespace(inside=true) -%}
{{ '[INST] ' if messages else '' }}
{%- for m in messages -%}
{% if not ns.inside %}{{ '<s>[INST] ' }}{% set ns.inside = true %}{% endif -%}
{% if m.role == 'system' %}{{ '<<SYS>>\n' + m.content + '\n<</SYS>>\n\n' }}
{%- elif m.role == 'user' %}{{ m.content + ' [/INST]' }}
{%- else %}{{ m.content + '</s>' }}{% set ns.inside = false %}{% endif -%}
{% endfor %}";

const LLAMA2_SYS_STRIP: &str = r"{% set ns = namespace(inside=false) -%}
{% for m in messages -%}
{% if not ns.inside %}{{ '[INST] ' }}{% set ns.inside = true %}{% endif -%}
{% if m.role == 'system' %}{{ '<<SYS>>\n' + m.content|trim + '\n<</SYS>>\n\n' }}
{%- elif m.role == 'user' %}{{ m.content|trim + ' [/INST]' }}
{%- else %}{{ m.content|trim + '</s>' }}{% set ns.inside = false %}{% endif -%}
{% endfor %}";

const LLAMA3: &str = r"{% for m in messages -%}
{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content|trim + '<|eot_id|>' }}
{%- endfor -%}
{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' if add_generation_prompt }}";

const LLAMA4: &str = r"{% for m in messages -%}
{{ '<|header_start|>' + m.role + '<|header_end|>\n\n' + m.content|trim + '<|eot|>' }}
{%- endfor -%}
{{ '<|header_start|>assistant<|header_end|>\n\n' if add_generation_prompt }}";

const MISTRAL_V1: &str = r"{% set ns = namespace(inside=false) -%}
{% for m in messages -%}
{% if not ns.inside %}{{ ' [INST] ' }}{% set ns.inside = true %}{% endif -%}
{% if m.role == 'system' %}{{ m.content + '\n\n' }}
{%- elif m.role == 'user' %}{{ m.content + ' [/INST]' }}
{%- else %}{{ ' ' + m.content + '</s>' }}{% set ns.inside = false %}{% endif -%}
{% endfor %}";

const MISTRAL_V3: &str = r"{% set ns = namespace(inside=false) -%}
{% for m in messages -%}
{% if not ns.inside %}{{ '[INST] ' }}{% set ns.inside = true %}{% endif -%}
{% if m.role == 'system' %}{{ m.content + '\n\n' }}
{%- elif m.role == 'user' %}{{ m.content + '[/INST]' }}
{%- else %}{{ ' ' + m.content|trim + '</s>' }}{% set ns.inside = false %}{% endif -%}
{% endfor %}";

const MISTRAL_V3_TEKKEN: &str = r"{% set ns = namespace(inside=false) -%}
{% for m in messages -%}
{% if not ns.inside %}{{ '[INST]' }}{% set ns.inside = true %}{% endif -%}
{% if m.role == 'system' %}{{ m.content + '\n\n' }}
{%- elif m.role == 'user' %}{{ m.content + '[/INST]' }}
{%- else %}{{ m.content|trim + '</s>' }}{% set ns.inside = false %}{% endif -%}
{% endfor %}";

const MISTRAL_V7: &str = r"{% for m in messages -%}
{% if m.role == 'system' %}{{ '[SYSTEM_PROMPT] ' + m.content + '[/SYSTEM_PROMPT]' }}
{%- elif m.role == 'user' %}{{ '[INST] ' + m.content + '[/INST]' }}
{%- else %}{{ ' ' + m.content + '</s>' }}{% endif -%}
{% endfor %}";

const MISTRAL_V7_TEKKEN: &str = r"{% for m in messages -%}
{% if m.role == 'system' %}{{ '[SYSTEM_PROMPT]' + m.content + '[/SYSTEM_PROMPT]' }}
{%- elif m.role == 'user' %}{{ '[INST]' + m.content + '[/INST]' }}
{%- else %}{{ m.content + '</s>' }}{% endif -%}
{% endfor %}";

const PHI3: &str = r"{% for m in messages -%}
{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}
{%- endfor -%}
{{ '<|assistant|>\n' if add_generation_prompt }}";

const PHI4: &str = r"{% for m in messages -%}
{{ '<|im_start|>' + m.role + '<|im_sep|>' + m.content + '<|im_end|>' }}
{%- endfor -%}
{{ '<|im_start|>assistant<|im_sep|>' if add_generation_prompt }}";

const FALCON3: &str = r"{% for m in messages -%}
{{ '<|' + m.role + '|>\n' + m.content + '\n' }}
{%- endfor -%}
{{ '<|assistant|>\n' if add_generation_prompt }}";

const ZEPHYR: &str = r"{% for m in messages -%}
{{ '<|' + m.role + '|>\n' + m.content + '<|endoftext|>\n' }}
{%- endfor -%}
{{ '<|assistant|>\n' if add_generation_prompt }}";

const MONARCH: &str = r"{% for m in messages -%}
{{ ('' if loop.first else '<s>') + m.role + '\n' + m.content + '</s>\n' }}
{%- endfor -%}
{{ '<s>assistant\n' if add_generation_prompt }}";

const GEMMA: &str = r"{% set ns = namespace(system='') -%}
{% for m in messages -%}
{% if m.role == 'system' %}{% set ns.system = m.content|trim %}{% continue %}{% endif -%}
{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}
{%- if ns.system and m.role != 'assistant' %}{{ ns.system + '\n\n' }}{% set ns.system = '' %}{% endif -%}
{{ m.content|trim + '<end_of_turn>\n' }}
{%- endfor -%}
{{ '<start_of_turn>model\n' if add_generation_prompt }}";

const ORION: &str = r"{% set ns = namespace(system='') -%}
{% for m in messages -%}
{% if m.role == 'system' %}{% set ns.system = m.content %}
{%- elif m.role == 'user' -%}
{{ 'Human: ' + (ns.system + '\n\n' if ns.system else '') + m.content + '\n\nAssistant: </s>' }}{% set ns.system = '' %}
{%- else %}{{ m.content + '</s>' }}{% endif -%}
{% endfor %}";

const OPENCHAT: &str = r"{% for m in messages -%}
{% if m.role == 'system' %}{{ m.content + '<|end_of_turn|>' }}
{%- else %}{{ 'GPT4 Correct ' + m.role|capitalize + ': ' + m.content + '<|end_of_turn|>' }}{% endif -%}
{% endfor -%}
{{ 'GPT4 Correct Assistant:' if add_generation_prompt }}";

const VICUNA: &str = r"{% for m in messages -%}
{% if m.role == 'system' %}{{ m.content + '\n\n' }}
{%- elif m.role == 'user' %}{{ 'USER: ' + m.content + '\n' }}
{%- else %}{{ 'ASSISTANT: ' + m.content + '</s>\n' }}{% endif -%}
{% endfor -%}
{{ 'ASSISTANT:' if add_generation_prompt }}";

const VICUNA_ORCA: &str = r"{% for m in messages -%}
{% if m.role == 'system' %}{{ 'SYSTEM: ' + m.content + '\n' }}
{%- elif m.role == 'user' %}{{ 'USER: ' + m.content + '\n' }}
{%- else %}{{ 'ASSISTANT: ' + m.content + '</s>\n' }}{% endif -%}
{% endfor -%}
{{ 'ASSISTANT:' if add_generation_prompt }}";

const DEEPSEEK: &str = r"{% for m in messages -%}
{% if m.role == 'system' %}{{ m.content }}
{%- elif m.role == 'user' %}{{ '### Instruction:\n' + m.content + '\n' }}
{%- else %}{{ '### Response:\n' + m.content + '\n<|EOT|>\n' }}{% endif -%}
{% endfor -%}
{{ '### Response:\n' if add_generation_prompt }}";

const DEEPSEEK2: &str = r"{% for m in messages -%}
{% if m.role == 'system' %}{{ m.content + '\n\n' }}
{%- elif m.role == 'user' %}{{ 'User: ' + m.content + '\n\n' }}
{%- else %}{{ 'Assistant: ' + m.content + '<｜end▁of▁sentence｜>' }}{% endif -%}
{% endfor -%}
{{ 'Assistant:' if add_generation_prompt }}";

const DEEPSEEK3: &str = r"{% for m in messages -%}
{% if m.role == 'system' %}{{ m.content + '\n\n' }}
{%- elif m.role == 'user' %}{{ '<｜User｜>' + m.content }}
{%- else %}{{ '<｜Assistant｜>' + m.content + '<｜end▁of▁sentence｜>' }}{% endif -%}
{% endfor -%}
{{ '<｜Assistant｜>' if add_generation_prompt }}";

const COMMAND_R: &str = r"{% set names = {'system': 'SYSTEM', 'user': 'USER', 'assistant': 'CHATBOT'} -%}
{% for m in messages -%}
{{ '<|START_OF_TURN_TOKEN|><|' + names.get(m.role, 'USER') + '_TOKEN|>' + m.content|trim + '<|END_OF_TURN_TOKEN|>' }}
{%- endfor -%}
{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' if add_generation_prompt }}";

const CHATGLM3: &str = r"[gMASK]sop
{%- for m in messages -%}
{{ '<|' + m.role + '|>\n ' + m.content }}
{%- endfor -%}
{{ '<|assistant|>' if add_generation_prompt }}";

const CHATGLM4: &str = r"[gMASK]<sop>
{%- for m in messages -%}
{{ '<|' + m.role + '|>\n' + m.content }}
{%- endfor -%}
{{ '<|assistant|>\n' if add_generation_prompt }}";

const GLMEDGE: &str = r"{% for m in messages -%}
{{ '<|' + m.role + '|>\n' + m.content }}
{%- endfor -%}
{{ '<|assistant|>' if add_generation_prompt }}";

const MINICPM: &str = r"{% for m in messages -%}
{% if m.role == 'user' %}{{ '<用户>' + m.content|trim + '<AI>' }}
{%- else %}{{ m.content|trim }}{% endif -%}
{% endfor %}";

const EXAONE3: &str = r"{% for m in messages -%}
{% if m.role == 'system' %}{{ '[|system|]' + m.content|trim + '[|endofturn|]\n' }}
{%- elif m.role == 'user' %}{{ '[|user|]' + m.content|trim + '\n' }}
{%- else %}{{ '[|assistant|]' + m.content|trim + '[|endofturn|]\n' }}{% endif -%}
{% endfor -%}
{{ '[|assistant|]' if add_generation_prompt }}";

const GRANITE: &str = r"{% for m in messages -%}
{{ '<|start_of_role|>' + m.role + '<|end_of_role|>' + m.content + '<|end_of_text|>\n' }}
{%- endfor -%}
{{ '<|start_of_role|>assistant<|end_of_role|>' if add_generation_prompt }}";

const GIGACHAT: &str = r"{% if messages and messages[0].role != 'system' %}<s>{% endif -%}
{% for m in messages -%}
{% if m.role == 'system' %}{{ '<s>' + m.content + '<|message_sep|>' }}
{%- elif m.role == 'user' -%}
{{ 'user<|role_sep|>' + m.content + '<|message_sep|>available functions<|role_sep|>[]<|message_sep|>' }}
{%- else %}{{ 'assistant<|role_sep|>' + m.content + '<|message_sep|>' }}{% endif -%}
{% endfor -%}
{{ 'assistant<|role_sep|>' if add_generation_prompt }}";

const MEGREZ: &str = r"{% for m in messages -%}
{{ '<|role_start|>' + m.role + '<|role_end|>' + m.content + '<|turn_end|>' }}
{%- endfor -%}
{{ '<|role_start|>assistant<|role_end|>' if add_generation_prompt }}";

const RWKV_WORLD: &str = r"{% for m in messages -%}
{% if m.role == 'system' %}{{ 'System: ' + m.content|trim + '\n\n' }}
{%- elif m.role == 'user' %}{{ 'User: ' + m.content|trim + '\n\n' }}
{%- else %}{{ 'Assistant: ' + m.content|trim + '\n\n' }}{% endif -%}
{% endfor -%}
{{ 'Assistant:' if add_generation_prompt }}";

const SMOLVLM: &str = r"<|im_start|>
{%- for m in messages -%}
{% if m.role == 'system' %}{{ m.content + '\n\n' }}
{%- elif m.role == 'user' %}{{ 'User: ' + m.content + '<end_of_utterance>\n' }}
{%- else %}{{ 'Assistant: ' + m.content + '<end_of_utterance>\n' }}{% endif -%}
{% endfor -%}
{{ 'Assistant:' if add_generation_prompt }}";

const GPT_OSS: &str = r"{% for m in messages -%}
{{ '<|start|>' + m.role + '<|message|>' + m.content + ('<|return|>' if m.role == 'assistant' and loop.last else '<|end|>') }}
{%- endfor -%}
{{ '<|start|>assistant' if add_generation_prompt }}";
