-- What every script of the queue begins with. KEYS are those of its lane:
--
-- visible  all messages, by the time at which each is, or becomes, visible
-- held     those that were received or handed back with a delay, by the same time; tells in flight from delayed
-- body     their texts
-- meta     receives, time of sending, and whether the latest receive holds it (1) or not (0)
-- holder   of those that a process with a heartbeat received: its name and the receives
local visible, held, body, meta, holder = unpack(KEYS)

local function forget(id)
  redis.call('ZREM', visible, id)
  redis.call('ZREM', held, id)
  redis.call('HDEL', body, id)
  redis.call('HDEL', meta, id)
  redis.call('HDEL', holder, id)
end

local function read_meta(id)
  local found = redis.call('HGET', meta, id)
  if not found then return nil end
  return string.match(found, '^(%d+) (%d+) ([01])$')
end

-- Whether this receipt is its message's latest, and not used up.
local function holds(id, receives)
  local latest, _, is_held = read_meta(id)
  return latest == receives and is_held == '1'
end
