"""How the step of all lanes is computed: draws, gradients, captured operations, CUDA graphs."""
