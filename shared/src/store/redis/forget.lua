-- Forgets what has expired. KEYS: the six indexes, then of each entry those of its webhook. ARGV: now, then of each entry how many keys it
-- has and its text, by which it stands in the index of what expires. Answers how many webhooks are gone.
local at, gone = 6, 0
for argument = 2, #ARGV, 2 do
  local entry = ARGV[argument + 1]
  local count = tonumber(ARGV[argument])
  w, c, ref, dead_ref = unpack(KEYS, at + 1, at + count)
  at = at + count
  local task, s, a, f, i = string.match(entry, '^([^|]*)|([^|]*)|([^|]*)|([^|]*)|([^|]*)$')
  local expires_at = redis.call('ZSCORE', expiry, entry)
  if not task or not w then
    redis.call('ZREM', expiry, entry)
  elseif expires_at and tonumber(expires_at) <= now then
    remove(task, { s = s, a = a, f = f, i = i, d = '', x = 'over' })
    gone = gone + 1
  end
end
return gone
