"""From a checkpoint's folder to a model: `config` reads, `weights` checks and fills, `lora` merges, `layout` knows names."""
