-- ARGV: prefix, then id and receives of each receipt.
for at = 2, #ARGV, 2 do
  if holds(ARGV[at], ARGV[at + 1]) then forget(ARGV[at]) end
end
