"""Every way in which a plugin can be broken, a module each."""
