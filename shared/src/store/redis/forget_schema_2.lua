-- Deletes expired messages and deliveries, and what occupied a delivery's key long enough.
-- KEYS: the indexes, then the keys of each entry's message or delivery.
-- ARGV: now, how long an expired record occupies the key of a delivery, after what time to look
-- again at an expired message that a delivery holds, then for each entry the number of its keys and
-- its text in the expiry index.
local OCCUPIED_MS, AGAIN_MS = tonumber(ARGV[2]), tonumber(ARGV[3])
local function forget(entry, place, one, over_at)
  if one.s == 'm' then
    if is_hash(w) and is_held(w) then
      redis.call('ZADD', expiry, string.format('%.0f', now + AGAIN_MS), entry)
    else
      remove_message(place, one, ref, dead_ref)
    end
  elseif one.s == '' then
    redis.call('UNLINK', w)
    redis.call('ZREM', expiry, entry)
  else
    remove_entries(place, one)
    occupy(place, one.i, 'expired', string.format('%.0f', over_at + OCCUPIED_MS))
    hold(ref, place, nil)
  end
end
local at = 6
for argument = 4, #ARGV, 2 do
  local entry, count = ARGV[argument + 1], tonumber(ARGV[argument])
  w, c, ref, dead_ref = unpack(KEYS, at + 1, at + count)
  at = at + count
  local place, s, a, f, i = string.match(entry, '^([^|]*)|([^|]*)|([^|]*)|([^|]*)|([^|]*)$')
  local over_at = redis.call('ZSCORE', expiry, entry)
  if not place or not w then
    redis.call('ZREM', expiry, entry)
  elseif over_at and tonumber(over_at) <= now then
    forget(entry, place, { s = s, a = a, f = f, i = i, d = '', x = 'over' }, tonumber(over_at))
  end
end
