"""The engines that ship with nasvid."""
