"""The coordination library, hft-controld and hftctl. It knows neither the agents nor the data plane.

Layers, top to bottom: cli > floor, daemon > api > operations > registry, specs, backup > operations/log >
site > leadership > store > resilience, http > host > model, settings > clock, errors.
"""
