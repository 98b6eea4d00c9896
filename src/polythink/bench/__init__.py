"""What decoding costs on the device at hand, beside other engines and beside the floor: `polythink bench decode`."""
