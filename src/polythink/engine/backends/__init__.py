"""What runs a step: see `polythink.engine.step.Backend`."""
