-- What every script of the queue begins with. ARGV[1] is the prefix of the lane's keys.
--
-- visible  all messages, by the time at which each is, or becomes, visible
-- held     those that were received or handed back with a delay, by the same time; tells in flight from delayed
-- body     their texts
-- meta     receives, time of sending, and whether the latest receive holds it (1) or not (0)
local p = ARGV[1]

local function forget(id)
  redis.call('ZREM', p .. 'visible', id)
  redis.call('ZREM', p .. 'held', id)
  redis.call('HDEL', p .. 'body', id)
  redis.call('HDEL', p .. 'meta', id)
end

local function read_meta(id)
  local meta = redis.call('HGET', p .. 'meta', id)
  if not meta then return nil end
  return string.match(meta, '^(%d+) (%d+) ([01])$')
end

-- Whether this receipt is its message's latest, and not used up.
local function holds(id, receives)
  local latest, _, held = read_meta(id)
  return latest == receives and held == '1'
end
