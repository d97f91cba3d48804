"""From a register list, as an integrator has it, to `agent.toml`. What is not certain is reported, never guessed."""
