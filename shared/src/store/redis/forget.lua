-- Deletes expired webhooks. Returns how many.
-- KEYS: the six indexes, then the keys of each entry's webhook.
-- ARGV: now, then for each entry the number of its keys and its text in the expiry index.
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
