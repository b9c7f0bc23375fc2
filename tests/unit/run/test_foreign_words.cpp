#include <gtest/gtest.h>

#include <regex>
#include <set>

#include "base/error.h"
#include "io/run/key_reference.h"
#include "io/run/run_file.h"
#include "io/run/schema.h"

namespace qshard {
namespace {

const std::string kGood = "model: {base: m}\ndata: {train: a.jsonl}\noutput: o\n";

/// What is said of a run file with `more` in it; "accepted" if nothing is.
std::string said(const std::string& more, const std::vector<std::string>& overrides = {}) {
    try {
        parse_run_file(kGood + more, "/f/run.yaml", overrides);
    } catch (const UserError& error) {
        EXPECT_EQ(error.code(), ExitCode::kUsage);
        return error.what();
    }
    return "accepted";
}

bool has(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

TEST(ForeignWords, KeysOfOtherProgramsAreAnsweredWithTheKeyThatDoesIt) {
    const std::vector<std::pair<const char*, const char*>> words = {
        {"lora_r", "adapter.r"},
        {"lora_target_modules", "adapter.target_modules"},
        {"peft_use_dora", "adapter.use_dora"},
        {"layers_to_transform", "adapter.layers"},
        {"num_train_epochs", "train.epochs"},
        {"per_device_train_batch_size", "train.micro_batch_size"},
        {"gradient_accumulation_steps", "train.global_batch_size"},
        {"lr", "train.learning_rate"},
        {"learning_rate", "train.learning_rate"},
        {"lr_scheduler_type", "train.lr_scheduler_type"},
        {"optim", "train.optimizer"},
        {"cutoff_len", "data.max_length"},
        {"Max-Seq-Length", "data.max_length"},
        {"sample_packing", "data.packing"},
        {"train_on_inputs", "data.loss_on"},
        {"val_set_size", "data.validation"},
        {"datasets", "data.train"},
        {"output_dir", "output"},
        {"save_steps", "checkpoint.every"},
        {"save_total_limit", "checkpoint.keep"},
        {"eval_steps", "eval.every"},
        {"early_stopping_patience", "eval.early_stop"},
        {"logging_steps", "log.every"},
        {"model_name_or_path", "model.base"},
        {"load_in_4bit", "model.quantization"},
        {"bnb_4bit_use_double_quant", "model.double_quant"},
        {"bf16", "model.compute_dtype"},
        {"gradient_checkpointing", "train.recompute"},
        {"adam_beta1", "train.betas"},
        {"max_memory", "placement.memory_limit"},
    };
    for (const auto& [word, key] : words) {
        for (const char* section : {"", "train.", "adapter."}) {
            if (std::string(section) + word == key) continue;
            const std::string text = said("", {fmt::format("{}{}=1", section, word)});
            EXPECT_TRUE(has(text, fmt::format("unknown key \"{}{}\"", section, word))) << text;
            EXPECT_TRUE(has(text, fmt::format("did you mean \"{}\"?", key))) << text;
        }
    }
    for (const char* word : {"deepspeed", "flash_attention", "wandb_project", "push_to_hub",
                             "chat_template", "neftune_noise_alpha", "trust_remote_code"}) {
        const std::string text = said(fmt::format("{}: true\n", word));
        EXPECT_TRUE(
            has(text, fmt::format("unknown key \"{}\"; it has no counterpart here: ", word)))
            << text;
    }
}

TEST(ForeignWords, AnswersNameKeysThatExist) {
    RunFile run;
    std::set<std::string> known;
    for (const RunKey& key : run_keys(run)) {
        known.insert(key.path);
        known.insert(key.path.substr(0, key.path.find('.')));
    }
    const std::regex quoted("\"([a-z_.]+)\"");
    for (const char* word : {"peft",
                             "trainer",
                             "quantization_config",
                             "trials",
                             "lora_bias",
                             "dora",
                             "pissa_init",
                             "loraplus_lr_ratio",
                             "additional_target",
                             "finetuning_type",
                             "fp16",
                             "dataset_dir",
                             "dataset_text_field",
                             "padding_free",
                             "response_template",
                             "max_samples",
                             "interleave_probs",
                             "truncation",
                             "roles_to_train",
                             "eval_batch_size",
                             "warmup",
                             "random_state",
                             "stage",
                             "do_eval",
                             "max_new_tokens",
                             "eval_table_size",
                             "report_to",
                             "resume_from_checkpoint",
                             "fsdp",
                             "device_map",
                             "device",
                             "gpus",
                             "num_threads",
                             "lora_on_cpu",
                             "overwrite_output_dir",
                             "logging_dir",
                             "load_best_model_at_end",
                             "max_time",
                             "add_special_tokens",
                             "gptq"}) {
        const std::string text = key_meant(word);
        EXPECT_FALSE(text.empty()) << word;
        std::string rest = text;
        for (std::smatch match; std::regex_search(rest, match, quoted); rest = match.suffix()) {
            if (match[1] == "text" || match[1] == "output") continue;
            EXPECT_TRUE(known.contains(match[1])) << word << ": " << text;
        }
    }
    EXPECT_EQ(key_meant("train.seed"), "did you mean \"train.seed\"?");
    EXPECT_EQ(key_meant("quux"), "");
}

TEST(ForeignWords, ValuesAreConvertedWhereThatCanBeSaid) {
    const std::vector<std::pair<const char*, const char*>> words = {
        {"train.optimizer=paged_adamw_8bit", "(paged_adamw_8bit is adamw here: "},
        {"train.optimizer=adamw_torch", "(adamw_torch is adamw here)"},
        {"train.lr_scheduler_type=cosine_with_restarts", "is cosine here"},
        {"train.lr_scheduler_type=cosin", "did you mean cosine?"},
        {"train.max_steps=-1", "-1 is null here"},
        {"adapter.type=qlora", "qlora is lora here: with model.quantization nf4"},
        {"model.quantization=4bit", "4bit is nf4 here"},
        {"model.compute_dtype=fp16", "float16 is not computed in"},
        {"data.format=alpaca", "alpaca is instruction here"},
        {"placement.mode=zero3", "zero3 is gathered here"},
        {"eval.every=epoch", "it counts optimizer steps"},
        {"checkpoint.every=no", "no is 0 here"},
        {"load_in_4bit=true", "Write model.quantization: nf4."},
        {"train_on_inputs=false", "Write data.loss_on: completion."},
        {"optimizer=adamw_bnb_8bit", "(adamw_bnb_8bit is adamw here"},
    };
    for (const auto& [assignment, answer] : words)
        EXPECT_TRUE(has(said("", {assignment}), answer)) << said("", {assignment});
    EXPECT_EQ(said("adapter: {init_lora_weights: True}\n"), "accepted");
}

TEST(ForeignWords, AWholeFileIsAnsweredAtOnce) {
    const std::string text = said(
        "base_model: x\nadapter: qlora\nlora_r: 8\nmicro_batch_size: 2\n"
        "gradient_accumulation_steps: 4\noptimizer: adamw_torch\ntraining_args:\n  lr: 1\n"
        "trian: {seed: 1}\n");
    for (const char* line :
         {"run.yaml:4: unknown key \"base_model\"; did you mean \"model.base\"?",
          "run.yaml:5: \"adapter\" is a section: put its keys below it; the word is for "
          "\"adapter.type\"",
          "run.yaml:6: unknown key \"lora_r\"", "On one device, 2 x 4 = 8.",
          "run.yaml:9: unknown key \"optimizer\"; did you mean \"train.optimizer\"? (adamw_torch",
          "run.yaml:11: unknown key \"training_args.lr\"; did you mean \"train.learning_rate\"?",
          "run.yaml:12: unknown key \"trian\"; did you mean \"train\"?"}) {
        EXPECT_TRUE(has(text, line)) << line << " in\n" << text;
    }
    std::string many;
    for (int i = 0; i < 100; ++i) many += fmt::format("zz{}: 1\n", i);
    EXPECT_TRUE(has(said(many), "... and 40 more"));
}

TEST(RunFileAsYaml, WhatYamlReadersDisagreeAboutIsRefused) {
    const std::vector<std::pair<const char*, const char*>> files = {
        {"train: {seed: 010}\n", "expected a whole number"},
        {"train: {seed: 0x10}\n", "expected a whole number"},
        {"train: {seed: 1_000}\n", "expected a whole number"},
        {"train: {max_steps: 1e3}\n", "expected a whole number in digits alone: 1000"},
        {"train: {learning_rate: .nan}\n", "expected a number from"},
        {"train: {learning_rate: .inf}\n", "expected a number from"},
        {"train: {seed: }\n", "\"train.seed\" is nothing"},
        {"train: {seed: [1]}\n", "\"train.seed\" is a list"},
        {"train: {seed: 1}\ntrain: {epochs: 2}\n", "key \"train\" is given twice"},
        {"train: {seed: 1}\ntrain.seed: 2\n", "key \"train.seed\" is given twice"},
        {"adapter: {rank_pattern: {a: 1, a: 2}}\n", "\"adapter.rank_pattern\" has \"a\" twice"},
        {"---\ntrain: {seed: 1}\n", "a second YAML document"},
        {"train:\n  <<: {seed: 1}\n", "merge keys are not read"},
        {"train:\n\tseed: 1\n", "run.yaml:5: not valid YAML"},
        {"model: \"\"\n", "run.yaml:4: key \"model\" is given twice"},
        {"eval: {generate: {metrics: [masks, bleu]}}\n", "exact_match, masks; not bleu"},
        {"eval: {early_stop: true}\n", "\"eval.early_stop\" is true; expected a whole number"},
        {"adapter: {target_modules: \"q_proj,v_proj\"}\n", "expected a list, [q_proj, v_proj]"},
    };
    for (const auto& [file, answer] : files) EXPECT_TRUE(has(said(file), answer)) << said(file);
    EXPECT_TRUE(has(said("", {"data.template=Q: {text}"}), "quotes of its own"));
    EXPECT_TRUE(has(said("", {"train={seed: 1}"}), "\"train\" is a section"));
    EXPECT_TRUE(has(said("", {"data.test=${HOME}/t.jsonl"}), "variables and ~ are not expanded"));
    EXPECT_TRUE(has(said("", {"data.train=[a, ~/b]"}), "variables and ~ are not expanded"));
    std::string bomb = "a0: &a0 [1, 1]\n";
    for (int i = 1; i < 40; ++i)
        bomb += fmt::format("a{}: &a{} [*a{}, *a{}]\n", i, i, i - 1, i - 1);
    EXPECT_TRUE(has(said(bomb), "too deep, or aliases too many"));
}

TEST(RunFileAsYaml, WhatAllReadersAgreeAboutIsTaken) {
    const RunFile run = parse_run_file(
        kGood +
            "train: {seed: \"7\", learning_rate: 2e-4}\nlog: {tensorboard: off}\neval:\n"
            "checkpoint: {time_limit: 1-00:00:30, on_signal: No}\n",
        "/f/run.yaml", {" train.epochs =2"});
    EXPECT_EQ(run.train.seed, 7u);
    EXPECT_EQ(run.train.learning_rate, 2e-4);
    EXPECT_FALSE(run.log.tensorboard || run.checkpoint.on_signal);
    EXPECT_EQ(run.checkpoint.time_limit, 24 * 3600 + 30);
    EXPECT_EQ(run.train.epochs, 2);
    EXPECT_TRUE(run.given.contains("train.epochs") && run.given.contains("checkpoint.on_signal"));
    EXPECT_FALSE(run.given.contains("eval.every"));
}

TEST(RunFileEffects, SettingsWithoutEffectAreRefused) {
    for (const std::vector<std::string>& settings : std::vector<std::vector<std::string>>{
             {"eval.early_stop=2"},
             {"eval.early_stop=2", "data.validation=0.1", "eval.every=0"},
             {"eval.generate.split=test"},
             {"train.betas=[0.5, 0.9]", "train.optimizer=sgd"},
             {"train.warmup_steps=3", "train.lr_scheduler_type=constant"},
             {"data.completion_column=answer"},
             {"data.template=x", "data.format=text"},
             {"adapter.init_from=x", "adapter.init_lora_weights=gaussian"},
             {"placement.ranks_per_gpu=2", "placement.backend=cpu"},
             {"placement.cpu_isa=avx2", "placement.backend=reference"}}) {
        const std::string text = said("", settings);
        const std::string key = settings[0].substr(0, settings[0].find('='));
        EXPECT_TRUE(has(text, key) || has(text, "train.lr_scheduler_type")) << key << ": " << text;
    }
    EXPECT_EQ(said("", {"eval.early_stop=2", "data.validation=0.1"}), "accepted");
}

}  // namespace
}  // namespace qshard
