"""The ablation grid on one machine or many: what it will cost, who may use which GPU, what came of it."""
