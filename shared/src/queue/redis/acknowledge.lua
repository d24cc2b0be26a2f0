-- ARGV: id and receives of each receipt.
for at = 1, #ARGV, 2 do
  if holds(ARGV[at], ARGV[at + 1]) then forget(ARGV[at]) end
end
