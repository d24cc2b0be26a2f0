-- What every script about one webhook or message begins with: the layout of the keys, and the
-- changes of index entries. KEYS are all keys that the script touches. ARGV[1] is the time now in
-- milliseconds. An absent value is the empty string. PLACE is TASK, or TASK/ENDPOINT of a delivery.
--
-- w:PLACE  the record of a webhook:
--            r  its JSON
--            v  revision
--            s  status, as a code of STATUS
--            d  due_at
--            a  archived_at, of dead letters only, in 15 digits
--            x  expires_at
--            f  reference id, only if the caller gave it; of a delivery the application
--            i  the webhook's id
--            t  a random name of the call that created it
--            o  the process of the latest claim that had a name, and that claim
--          or the record of a message, without s, a and i:
--            r v d x t  as above
--            f  the application
--            b  1 if the caller gave the reference id
--            m  the message's id
--            n  how many planned deliveries have had no record yet, or more: a marker that was put
--               whether or not there was one is not counted
--            h:ENDPOINT  the delivery is unfinished (empty), or a dead letter (its expires_at)
--          or a tombstone, with the only field
--            z  why no webhook can be created under the id
--          or what occupies the key of a delivery, with
--            z  deleted (a marker) or expired
--            u  until when
-- c:TASK   the content: u URL, h headers as JSON, p payload. Of a message, u and h are empty
--
-- time     every direct webhook and message, by task id
-- ref:REFERENCE    direct webhooks of one reference id
-- status   STATUS:PLACE of all but delivered ones
-- due      ids by due_at; a webhook that is not due has no entry
-- dead     archived_at:PLACE               dead:REFERENCE   those of one reference id
-- expiry   by expires_at; the text names all index entries, because the record may be gone
-- counts   webhooks per status
--
-- ref and dead:REFERENCE are passed only for webhooks that may have a reference id.
--
-- Messages and deliveries are in indexes of their own, which versions before applications do not
-- read, and which are passed in place of those above: status2, due2, dead2, expiry2. status2 also
-- has 0:TASK of each message with n above 0. expiry2 also has keys by the time until which
-- something occupies them.
--
-- messages:APPLICATION             messages by task id
-- ref:APPLICATION/REFERENCE        those of one reference id
-- dead2:ENDPOINT                   dead letters of one endpoint
--
-- For a delivery, its message's w:TASK and c:TASK, and dead2:ENDPOINT, are in the places of ref, c
-- and dead:REFERENCE. For a message, messages:APPLICATION and ref:APPLICATION/REFERENCE are in the
-- places of ref and dead:REFERENCE.
local time, status, due, dead, expiry, counts, w, c, ref, dead_ref = unpack(KEYS)
local now = tonumber(ARGV[1])

-- The codes of `Status::code` in shared/src/status.rs. Stored, so a code never changes.
local STATUS = {
  pending = '0', in_progress = '1', retrying = '2', delivered = '3', failed = '4',
}

local function load()
  local found = redis.call('HMGET', w, 'v', 's', 'd', 'a', 'x', 'f', 'i', 't')
  if not found[1] then return nil end
  for at = 2, 8 do found[at] = found[at] or '' end
  local v, s, d, a, x, f, i, t = unpack(found)
  return { v = v, s = s, d = d, a = a, x = x, f = f, i = i, t = t }
end

local function is_expired(one) return one.x ~= '' and tonumber(one.x) <= now end

local function expiry_entry(task, one)
  return table.concat({ task, one.s, one.a, one.f, one.i }, '|')
end

local function dead_letter(command, task, one)
  if one.a == '' then return end
  local member = one.a .. ':' .. task
  for _, list in ipairs({ dead, one.f ~= '' and dead_ref or nil }) do
    if command == 'ZADD' then
      redis.call('ZADD', list, 0, member)
    else
      redis.call('ZREM', list, member)
    end
  end
end

-- Moves the entries in the due index and in the index of expiry times.
local function move_times(task, old, new)
  if old.d ~= new.d then
    if new.d ~= '' then
      redis.call('ZADD', due, new.d, new.i)
    else
      redis.call('ZREM', due, new.i)
    end
  end
  if old.x ~= '' then redis.call('ZREM', expiry, expiry_entry(task, old)) end
  if new.x ~= '' then redis.call('ZADD', expiry, new.x, expiry_entry(task, new)) end
end

-- Moves the index entries from the record `old` to the record `new`. An `old` without a status is
-- no record.
local function move(task, old, new)
  if old.s ~= new.s then
    if old.s then
      if old.s ~= STATUS.delivered then redis.call('ZREM', status, old.s .. ':' .. task) end
      redis.call('HINCRBY', counts, old.s, -1)
    end
    if new.s ~= STATUS.delivered then redis.call('ZADD', status, 0, new.s .. ':' .. task) end
    redis.call('HINCRBY', counts, new.s, 1)
  end
  if old.a ~= new.a then
    dead_letter('ZREM', task, old)
    dead_letter('ZADD', task, new)
  end
  move_times(task, old, new)
  -- Earlier versions gave finished webhooks a time to live.
  if old.x ~= '' then
    redis.call('PERSIST', w)
    redis.call('PERSIST', c)
  end
end

-- Deletes the index entries that a direct webhook and a delivery have.
local function remove_entries(task, one)
  if one.s ~= STATUS.delivered then redis.call('ZREM', status, one.s .. ':' .. task) end
  redis.call('HINCRBY', counts, one.s, -1)
  if one.d ~= '' then redis.call('ZREM', due, one.i) end
  dead_letter('ZREM', task, one)
  if one.x ~= '' then redis.call('ZREM', expiry, expiry_entry(task, one)) end
end

-- Deletes a direct webhook with all its index entries.
local function remove(task, one)
  redis.call('UNLINK', w, c)
  redis.call('ZREM', time, task)
  if one.f ~= '' then redis.call('ZREM', ref, task) end
  remove_entries(task, one)
end

-- The record of a message under this key, if it is one. In the index of expiry times, a message has
-- the status m, and b in place of the time of a dead letter.
local function load_message(key)
  local found = redis.call('HMGET', key, 'm', 'v', 'd', 'x', 'f', 'b', 't')
  if not found[1] then return nil end
  for at = 2, 7 do found[at] = found[at] or '' end
  local i, v, d, x, f, b, t = unpack(found)
  return { i = i, v = v, s = 'm', d = d, x = x, f = f, a = b, t = t }
end

-- Whether a delivery holds the message: it is unfinished, or a dead letter that has not expired.
local function is_held(key)
  local found = redis.call('HGETALL', key)
  for at = 1, #found, 2 do
    local until_ms = string.sub(found[at], 1, 2) == 'h:' and found[at + 1]
    if until_ms and (until_ms == '' or tonumber(until_ms) > now) then return true end
  end
  return false
end

local function message_exists(key, one)
  return one and (not is_expired(one) or is_held(key))
end

local function is_hash(key) return redis.call('TYPE', key).ok == 'hash' end

-- Notes with its message whether a delivery holds it. `one` is the delivery's record, if it has
-- one.
local function hold(message, place, one)
  if not is_hash(message) or redis.call('HEXISTS', message, 'm') == 0 then return end
  local field = 'h:' .. string.match(place, '/(.*)$')
  if one and one.s ~= STATUS.delivered then
    redis.call('HSET', message, field, one.x)
  else
    redis.call('HDEL', message, field)
  end
end

-- Counts that a planned delivery got its first record, or a marker instead.
local function begin_delivery(message, place)
  if not is_hash(message) or redis.call('HEXISTS', message, 'n') == 0 then return end
  if redis.call('HINCRBY', message, 'n', -1) <= 0 then
    redis.call('ZREM', status, STATUS.pending .. ':' .. string.match(place, '^(.*)/'))
  end
end

-- Deletes a message with its content and all its index entries.
local function remove_message(task, one, messages, references)
  redis.call('UNLINK', w, c)
  for _, index in ipairs({ time, messages, references }) do redis.call('ZREM', index, task) end
  redis.call('ZREM', status, STATUS.pending .. ':' .. task)
  if one.d ~= '' then redis.call('ZREM', due, one.i) end
  if one.x ~= '' then redis.call('ZREM', expiry, expiry_entry(task, one)) end
end

-- Lets this occupy the key of a delivery, whose record and index entries are gone.
local function occupy(place, id, why, until_ms)
  redis.call('UNLINK', w)
  redis.call('HSET', w, 'z', why, 'u', until_ms)
  redis.call('ZADD', expiry, until_ms, expiry_entry(place, { s = '', a = '', f = '', i = id }))
end

-- Bars the id, under which there is no record, until that time.
local function add_tombstone(why, until_ms)
  if tonumber(until_ms) <= now then return end
  redis.call('HSET', w, 'z', why)
  redis.call('PEXPIRE', w, string.format('%.0f', tonumber(until_ms) - now))
end

-- Deletes targets that were not used since that time.
local function purge_targets(targets, revisions, restricting, counters, used, before)
  local MAX_PURGED = 10
  local stale =
    redis.call('ZRANGE', used, '-inf', '(' .. before, 'BYSCORE', 'LIMIT', 0, MAX_PURGED)
  for _, name in ipairs(stale) do
    for _, hash in ipairs({ targets, revisions, counters }) do redis.call('HDEL', hash, name) end
    for _, set in ipairs({ restricting, used }) do redis.call('ZREM', set, name) end
  end
end

local function content() return redis.call('HMGET', c, 'u', 'h', 'p') end
