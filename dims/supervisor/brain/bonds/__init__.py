"""The brain's ends of its bonds: with workers and services, with the keeper, with the kernel."""
