-- What every script about one webhook begins with. KEYS are all the keys that it touches, ARGV[1] is the time now in milliseconds.
--
-- w:TASK  the record: r its JSON, v revision, s status, d due_at, a archived_at (15 digits, only of dead letters), x expires_at,
--         f reference id (only if the caller gave it), i the webhook's id, t which call created it. What there is none of is the empty
--         string. Of an id that is retired there is only z: why.
-- c:TASK  the content: u URL, h headers as JSON, p payload.
--
-- time          all, by task id           ref:REFERENCE        the same, of one reference id
-- status        STATUS:TASK of all but delivered
-- due           ids by due_at
-- dead          archived_at:TASK          dead:REFERENCE       the same, of one reference id
-- expiry        what to forget, by expires_at: names all entries, so the record itself may be gone by then
-- counts        webhooks by status
--
-- The last two are given only of webhooks that may have a reference id.
local time, status, due, dead, expiry, counts, w, c, ref, dead_ref = unpack(KEYS)
local now = tonumber(ARGV[1])
local DELIVERED = '3'

local function load()
  local found = redis.call('HMGET', w, 'v', 's', 'd', 'a', 'x', 'f', 'i', 't')
  if not found[1] then return nil end
  for at = 2, 8 do found[at] = found[at] or '' end
  return { v = found[1], s = found[2], d = found[3], a = found[4], x = found[5], f = found[6], i = found[7], t = found[8] }
end

local function is_expired(one) return one.x ~= '' and tonumber(one.x) <= now end

local function expiry_entry(task, one) return table.concat({ task, one.s, one.a, one.f, one.i }, '|') end

local function dead_letter(command, task, one)
  if one.a == '' then return end
  for _, list in ipairs({ dead, one.f ~= '' and dead_ref or nil }) do
    if command == 'ZADD' then redis.call('ZADD', list, 0, one.a .. ':' .. task) else redis.call('ZREM', list, one.a .. ':' .. task) end
  end
end

-- Index entries follow from the record `old` to the record `new`; an `old` without a status is none.
local function move(task, old, new)
  if old.s ~= new.s then
    if old.s then
      if old.s ~= DELIVERED then redis.call('ZREM', status, old.s .. ':' .. task) end
      redis.call('HINCRBY', counts, old.s, -1)
    end
    if new.s ~= DELIVERED then redis.call('ZADD', status, 0, new.s .. ':' .. task) end
    redis.call('HINCRBY', counts, new.s, 1)
  end
  if old.d ~= new.d then
    if new.d ~= '' then redis.call('ZADD', due, new.d, new.i) else redis.call('ZREM', due, new.i) end
  end
  if old.a ~= new.a then
    dead_letter('ZREM', task, old)
    dead_letter('ZADD', task, new)
  end
  if old.x ~= '' then redis.call('ZREM', expiry, expiry_entry(task, old)) end
  if new.x ~= '' then
    redis.call('ZADD', expiry, new.x, expiry_entry(task, new))
  end
  -- Earlier versions gave what is finished a time to live.
  if old.x ~= '' then
    redis.call('PERSIST', w)
    redis.call('PERSIST', c)
  end
end

-- Nothing is left of the webhook.
local function remove(task, one)
  redis.call('UNLINK', w, c)
  redis.call('ZREM', time, task)
  if one.s ~= DELIVERED then redis.call('ZREM', status, one.s .. ':' .. task) end
  redis.call('HINCRBY', counts, one.s, -1)
  if one.f ~= '' then redis.call('ZREM', ref, task) end
  if one.d ~= '' then redis.call('ZREM', due, one.i) end
  dead_letter('ZREM', task, one)
  if one.x ~= '' then redis.call('ZREM', expiry, expiry_entry(task, one)) end
end

-- Nothing is created any more under the id, of which there is no record.
local function retire(why, until_ms)
  if tonumber(until_ms) <= now then return end
  redis.call('HSET', w, 'z', why)
  redis.call('PEXPIRE', w, string.format('%.0f', tonumber(until_ms) - now))
end

local function content() return redis.call('HMGET', c, 'u', 'h', 'p') end
