-- Deletes acknowledged messages. ARGV: for each receipt, its message ID and receive count.
for at = 1, #ARGV, 2 do
  if holds(ARGV[at], ARGV[at + 1]) then forget(ARGV[at]) end
end
