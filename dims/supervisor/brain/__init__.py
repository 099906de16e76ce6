"""The ProcessSupervisor's process: hears facts, has them decided, performs the orders."""
