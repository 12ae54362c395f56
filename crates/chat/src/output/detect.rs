//! Which family a chat template is of: by the marks that it writes, most telling first.

use super::family::{
    BRACKETS, CHANNEL, COMMAND, Family, HARMONY, INNER, LONGCAT, SEED, STEPS, THINK, THINKING, Thoughts,
};

/// All of these stand in the template.
type Needles = &'static [&'static str];

/// What tells families apart. The first line that fits decides, so a line may rely on those before it.
const FAMILIES: [(Needles, Family); 42] = [
    (&["<|channel|>", "<|message|>", "analysis"], Family::Harmony),
    (&["｜DSML｜", "function_calls>"], Family::DeepSeekV32),
    (&["｜DSML｜"], Family::DeepSeekV4),
    (&["tool▁calls▁begin", "```json"], Family::DeepSeekR1),
    (&["tool▁calls▁begin"], Family::DeepSeekV31),
    (&["<|tool_call_argument_begin|>"], Family::Kimi),
    (&["minimax:tool_call"], Family::MiniMaxM2),
    (&["<seed:tool_call>"], Family::SeedOss),
    (&["<longcat_tool_call>"], Family::LongCat),
    (&["<|tool_call>call:"], Family::Gemma4),
    (&["<start_function_call>"], Family::FunctionGemma),
    (&["<|tools_prefix|>"], Family::Apertus),
    (&["<TOOLCALL>"], Family::NemotronV2),
    (&["[TOOL_CALLS]", "[CALL_ID]"], Family::MistralCallId),
    (&["[TOOL_CALLS]", "[ARGS]"], Family::MistralArgs),
    (&["[TOOL_CALLS]"], Family::MistralList),
    (&["<|START_ACTION|>"], Family::CommandR7b),
    (&["Action:", "<|START_OF_TURN_TOKEN|>", "tool_name"], Family::CommandRPlus),
    (&[">>>all"], Family::Functionary32),
    (&["'>>>' + "], Family::Functionary32),
    (&["functools["], Family::Firefunction),
    (&["<tool_call>", "<arg_key>"], Family::Glm),
    (&["<tool_call>", "<function=", "<parameter="], Family::QwenXml),
    (&["<function=", "</function>"], Family::Functionary31),
    (&["function call<|role_sep|>"], Family::GigaChat3),
    (&["function call", "<|role_sep|>", "<|message_sep|>"], Family::GigaChat3),
    (&["<|tool_call_start|>"], Family::Lfm2),
    (&["<|tool_list_start|>"], Family::Lfm2),
    (&["List of tools: [", "keep_past_thinking"], Family::Lfm2),
    (&["<function_calls>"], Family::Olmo3),
    (&["<tool_calls>", "<beginning_of_sentence>"], Family::MiniMaxM1),
    (&["<tool_calls>"], Family::Apriel),
    (&["<|/tool_call|>"], Family::Phi4),
    (&["<|tool_call|>", "<|start_of_role|>"], Family::Granite3),
    (&["<|tool_call|>"], Family::Phi4),
    (&["<tool_call>"], Family::Hermes),
    (&["<|tool|>", "<|/tool|>"], Family::Phi4),
    (&["<|header_start|>", "tools"], Family::Llama4),
    (&["<|python_tag|>"], Family::Llama),
    (&["<|start_header_id|>", "tool_calls"], Family::Llama),
    (&["tool_calls"], Family::Json),
    (&["tools", "tojson"], Family::Json),
];

/// What tells how a family thinks.
const THOUGHTS: [(Needles, Thoughts); 12] = [
    (&["<|channel|>", "<|message|>", "analysis"], HARMONY),
    (&["<seed:think>"], SEED),
    (&["<seed:tool_call>"], SEED),
    (&["<longcat_think>"], LONGCAT),
    (&["<|channel>thought"], CHANNEL),
    (&["<|START_THINKING|>"], COMMAND),
    (&["<|inner_prefix|>"], INNER),
    (&["[THINK]"], BRACKETS),
    (&["<thinking>"], THINKING),
    (&["[BEGIN FINAL RESPONSE]"], STEPS),
    (&["<think>"], THINK),
    (&["</think>"], THINK),
];

/// The family of a template, and how it thinks.
pub(super) fn detect(template: &str) -> (Family, Option<Thoughts>) {
    let all = |needles: Needles| needles.iter().all(|needle| template.contains(needle));
    let family = FAMILIES.iter().find(|(needles, _)| all(needles)).map_or(Family::Plain, |(_, f)| *f);
    let thoughts = THOUGHTS.iter().find(|(needles, _)| all(needles)).map(|(_, t)| *t);
    // Families that think whether or not their templates show it.
    let thoughts = thoughts.or((family == Family::Kimi).then_some(THINK));
    (family, thoughts)
}

/// Every family, once.
#[cfg(test)]
pub(super) fn families() -> Vec<Family> {
    let mut families = vec![Family::Plain];
    for (_, family) in FAMILIES {
        if !families.contains(&family) {
            families.push(family);
        }
    }
    families
}
